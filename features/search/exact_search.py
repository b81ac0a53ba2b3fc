"""Exact top-k of the canonical score over memmapped descriptors, at the speed of one float32 matrix product.

Each product lies in a proven interval around the canonical score. Per query, only rows whose upper end
reaches the k-th largest lower end seen so far are kept; at the end, and whenever a shortlist grows past its
bound (thousands of duplicates at the cut), they are rescored canonically. So the lists equal a brute-force
ranking by canonical score, ties to the lower row, whatever the block size, the threads or the number of
queries; memory does not grow with the gallery.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from competition.errors import Top7Error
from competition.progress import Progress
from features.search.sharding import map_over_shards
from features.search.shortlist import Shortlist
from features.search.similarity import (
    BLOCK_ROWS,
    best_first,
    check_components,
    float32_rows,
    forget,
    fused_score,
    margin,
)

_OUTPUT_BYTES = 16 << 20  # float32 scores held at once: queries x block rows


def search(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    excluded: np.ndarray | None = None,
    block_rows: int = BLOCK_ROWS,
    norm_bounds: Sequence[float] | None = None,
    device: Any = "cpu",
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best gallery rows of each query and their canonical scores.

    queries: L arrays (Q, D_l); gallery: L arrays or memmaps (n, D_l), float16, float32 or float64; weights
    (L,); excluded (n,) bool: rows never returned (unreadable images); norm_bounds (L,): upper bounds of the
    gallery rows' norms where they are known (similarity.UNIT_NORM for L2-normalised dumps), else they are
    measured on the way (for 100 queries a tenth of the time; lists are exact only if the bounds are true);
    device: "cpu" (numpy), or a torch device such as "cuda" for the products, with the same lists; progress: a
    bar on stderr. -> ranks (Q, k) int64, best first, ties to the lower row, -1 where the gallery has no more
    rows; scores (Q, k) float64, -inf beside -1. A query that is zero in every used component scores 0 with
    all rows and gets the first ones. Raises Top7Error for shapes that do not fit and for descriptors that are
    not finite, naming the row.
    """
    weights = np.asarray(weights, dtype=np.float64)
    check_arguments(queries, gallery, weights, k, excluded)
    total, count = len(gallery[0]), len(queries[0])
    used = [number for number in range(len(weights)) if weights[number] != 0] or [0]
    queries = [np.asarray(queries[number]) for number in used]
    for number, query in zip(used, queries):
        check_finite(query, 0, f"component {number} of the queries")
    searched = Gallery(
        [gallery[number] for number in used],
        weights[used],
        used,
        np.flatnonzero(excluded) if excluded is not None else np.empty(0, np.int64),
        None if norm_bounds is None else [float(norm_bounds[number]) for number in used],
        max(1, min(block_rows, total)),
    )
    ranks, scores = np.full((count, k), -1), np.full((count, k), -np.inf)
    batch = max(1, _OUTPUT_BYTES // (4 * searched.block_rows))
    bar = Progress(total=total * count, unit="pair", unit_scale=True, desc="search", shown=progress)
    for start in range(0, count, batch):
        part = slice(start, min(start + batch, count))
        some = [q[part] for q in queries]
        shard = partial(_search_rows, some, searched, k, device)
        done = partial(_advance, bar, len(some[0]))
        found = list(map_over_shards(shard, total, done, threaded=device == "cpu"))
        ranks[part], scores[part] = merged(found, k)
    bar.close()
    return ranks, scores


def _advance(bar: Progress, queries: int, rows: int) -> None:
    bar.update(rows * queries)


@dataclass(frozen=True)
class Gallery:
    """What is searched.

    components: L arrays (n, D_l), used ones alone; weights (L,); numbers: theirs among all, for messages; absent: rows
    never returned, rising; bounds: of the norms of the rows, where they are known; block_rows: read at once.
    """

    components: Sequence[np.ndarray]
    weights: np.ndarray
    numbers: Sequence[int]
    absent: np.ndarray
    bounds: Sequence[float] | None
    block_rows: int

    def excluded(self, first: int, last: int) -> np.ndarray:
        """Return which of the rows first to last are never returned, bool."""
        found = np.zeros(last - first, bool)
        found[self.absent[(self.absent >= first) & (self.absent < last)] - first] = True
        return found

    def scores(self, query: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Return the canonical scores (m,) of one query, L vectors, with rows (m,)."""
        return fused_score(query, [part[rows] for part in self.components], self.weights)

    def block(
        self, start: int, stop: int, buffers: Sequence[np.ndarray | None]
    ) -> Iterator[tuple[np.ndarray, float]]:
        """Yield of each component the rows start to stop, float32 (m, D_l), and an upper bound of their norms."""
        for place, (part, buffer) in enumerate(zip(self.components, buffers)):
            read = part[start:stop]
            rows = float32_rows(read, buffer)
            yield rows, self.bounds[place] if self.bounds else _largest_norm(rows, start, self.numbers[place])
            forget(read)


def merged(found: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of lists of different rows, (Q, any) ranks and scores each: ties to the lower row, -1 last."""
    ranks, scores = (np.concatenate(parts, axis=1) for parts in zip(*found))
    order = np.lexsort((ranks, -scores))[:, :k]
    return np.take_along_axis(ranks, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _search_rows(
    queries: list[np.ndarray],
    gallery: Gallery,
    k: int,
    device: Any,
    first: int,
    last: int,
    done: Callable[[int], object],
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks and scores (Q, k) of one batch of queries among rows first to last."""
    ranks, scores = np.full((len(queries[0]), k), -1), np.full((len(queries[0]), k), -np.inf)
    excluded, weights = gallery.excluded(first, last), gallery.weights
    empty = np.all([~q.any(axis=1) for q in queries], axis=0) | ~weights.any()
    allowed = first + np.flatnonzero(~excluded)[:k]
    ranks[np.flatnonzero(empty)[:, None], np.arange(len(allowed))] = allowed
    scores[np.flatnonzero(empty)[:, None], np.arange(len(allowed))] = 0.0
    active = np.flatnonzero(~empty)
    if not len(active):
        done(last - first)
        return ranks, scores
    queries = [q[active] for q in queries]
    # the weight goes to the query's side, so that the fused score is a plain sum of products
    scaled = [float32_rows(np.asarray(q, np.float64) * w) for q, w in zip(queries, weights)]
    multiply = [_multiplier(q, device) for q in scaled]
    lengths = [abs(w) * np.sqrt(np.square(q, dtype=np.float64).sum(axis=1)) for q, w in zip(queries, weights)]
    shortlist = Shortlist(
        len(active), k, lambda query, rows: gallery.scores([q[query] for q in queries], rows)
    )
    out = np.empty((len(active), gallery.block_rows), np.float32)
    other = np.empty_like(out) if len(queries) > 1 else out
    buffers = [
        None if g.dtype == np.float32 else np.empty((out.shape[1], g.shape[1]), np.float32)
        for g in gallery.components
    ]
    for start in range(first, last, gallery.block_rows):
        stop = min(start + gallery.block_rows, last)
        if stop - start < out.shape[1]:  # the last block: keep the products' output contiguous
            out = np.empty((len(active), stop - start), np.float32)
            other = np.empty_like(out) if len(queries) > 1 else out
        error = np.zeros(len(active))
        for number, (rows, bound) in enumerate(gallery.block(start, stop, buffers)):
            error += margin(rows.shape[1], lengths[number] * bound, extra=len(queries))
            error += rows.shape[1] * 2.0**-125 * bound  # weighted queries may underflow
            multiply[number](rows, other if number else out)
            if number:
                out += other
        out[:, excluded[start - first : stop - first]] = -np.inf
        shortlist.add(out, start, error)
        done(stop - start)
    for query, (found, values) in zip(active, shortlist.finish()):
        ranks[query, : len(found)], scores[query, : len(found)] = found, values
    return ranks, scores


def rescored(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    ranks: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of each list in ranks (Q, any) by the canonical score, ties to the lower row; -1 is missing."""
    new_ranks, new_scores = np.full((len(ranks), k), -1), np.full((len(ranks), k), -np.inf)
    for query, row in enumerate(ranks):
        rows = np.sort(row[row >= 0])
        scores = fused_score([q[query] for q in queries], [g[rows] for g in gallery], weights)
        order = best_first(scores, rows, k)
        new_ranks[query, : len(order)], new_scores[query, : len(order)] = rows[order], scores[order]
    return new_ranks, new_scores


def _multiplier(queries: np.ndarray, device: Any) -> Callable[[np.ndarray, np.ndarray], object]:
    """Return a function that writes queries (Q, D) times rows (m, D), transposed, into out (Q, m), all float32."""
    if device == "cpu":
        return lambda rows, out: np.matmul(queries, rows.T, out=out)
    import torch

    if torch.get_float32_matmul_precision() != "highest":
        raise Top7Error(
            f"torch.get_float32_matmul_precision() is {torch.get_float32_matmul_precision()!r}: its products "
            "are outside the proven margin; set it to 'highest' for an exact search"
        )
    left = torch.from_numpy(queries).to(device)

    def multiply(rows: np.ndarray, out: np.ndarray) -> None:
        with warnings.catch_warnings():  # torch warns of read-only memory, which is only read here
            warnings.simplefilter("ignore", UserWarning)
            right = torch.from_numpy(np.asarray(rows)).to(device)
        torch.from_numpy(out).copy_(left @ right.T)

    return multiply


def _largest_norm(rows: np.ndarray, start: int, component: int) -> float:
    """Return an upper bound of the norms of rows (m, D) float32; Top7Error if any is not finite."""
    squares = np.einsum("ij,ij->i", rows, rows)
    largest = float(squares.max())
    if not np.isfinite(largest):
        check_finite(rows, start, f"component {component} of the gallery")
        raise Top7Error(
            f"component {component} of the gallery: row {start + int(np.argmax(squares))} is too long for "
            "float32; L2-normalise the descriptors"
        )
    dimension = rows.shape[1]
    return float(np.sqrt(largest * (1 + 2 * margin(dimension, 1.0)) + dimension * 2.0**-125))


def check_arguments(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    k: int,
    excluded: np.ndarray | None,
) -> None:
    """Raise Top7Error unless these are arguments of one `search`."""
    check_components(queries, gallery)
    if weights.shape != (len(gallery),) or not np.isfinite(weights).all():
        raise Top7Error(
            f"{len(gallery)} components but weights {weights.tolist()}: expected one finite weight each"
        )
    if k < 1:
        raise Top7Error(f"k = {k}: expected at least 1")
    total = len(gallery[0])
    if excluded is not None and np.shape(excluded) != (total,):
        raise Top7Error(
            f"excluded has shape {np.shape(excluded)}, expected one flag for each of {total} gallery rows"
        )


def check_finite(rows: np.ndarray, start: int, name: str) -> None:
    """Raise Top7Error naming the first row (numbered from `start`) of rows (m, D) that is not finite."""
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise Top7Error(
            f"{name}: row {start + int(np.argmax(bad))} is not finite; extract it again, or mark the image "
            "as unreadable"
        )
