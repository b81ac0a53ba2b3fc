"""Exact top-k of the canonical score over memmapped descriptors, at the speed of one float32 matrix product.

Each product lies in a proven interval around the canonical score. Per query, only rows whose upper end
reaches the k-th largest lower end seen so far are kept; at the end, and whenever a shortlist grows past its
bound (thousands of duplicates at the cut), they are rescored canonically. So the lists equal a brute-force
ranking by canonical score, ties to the lower row, whatever the block size, the threads or the number of
queries; memory does not grow with the gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from competition.errors import Top7Error
from competition.progress import Progress
from features.search.sharding import map_over_shards
from features.search.shortlist import Shortlist
from features.search.similarity import (
    BLOCK_ROWS,
    UNIT_NORM,
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
    unit: bool = False,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best gallery rows of each query and their canonical scores.

    queries: L arrays (Q, D_l); gallery: L arrays or memmaps (n, D_l), float16, float32 or float64; weights
    (L,); excluded (n,) bool: rows never returned (unreadable images); unit: the gallery's rows are L2-normalised
    for certain, otherwise their norms are measured on the way (for 100 queries a tenth of the time); progress: a
    bar on stderr. -> ranks (Q, k) int64, best first, ties to the lower row, -1 where the gallery has no more
    rows; scores (Q, k) float64, -inf beside -1. A query that is zero in every used component scores 0 with
    all rows and gets the first ones. Raises Top7Error for components that do not fit and for descriptors that are
    not finite, naming the row.
    """
    check_components(queries, gallery)
    weights = np.asarray(weights, dtype=np.float64)
    used = np.flatnonzero(weights).tolist() or [0]
    queries = [np.asarray(queries[number]) for number in used]
    for number, query in zip(used, queries):
        check_finite(query, 0, f"component {number} of the queries")
    total, count = len(gallery[0]), len(queries[0])
    block_rows = max(1, min(BLOCK_ROWS, total))
    searched = partial(
        _search_rows,
        gallery=[gallery[number] for number in used],
        weights=weights[used],
        numbers=used,
        absent=np.empty(0, np.int64) if excluded is None else np.flatnonzero(excluded),
        unit=unit,
        block_rows=block_rows,
        k=k,
    )
    ranks, scores = np.full((count, k), -1), np.full((count, k), -np.inf)
    batch = max(1, _OUTPUT_BYTES // (4 * block_rows))
    with Progress(total=total * count, unit="pair", unit_scale=True, desc="search", shown=progress) as bar:
        for start in range(0, count, batch):
            part = slice(start, min(start + batch, count))
            some = [query[part] for query in queries]
            shard = partial(searched, some)
            found = map_over_shards(shard, total, lambda rows: bar.update(rows * len(some[0])), threaded=True)
            ranks[part], scores[part] = merged(list(found), k)
    return ranks, scores


def merged(found: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of lists of different rows, (Q, any) ranks and scores each: ties to the lower row, -1 last."""
    ranks, scores = (np.concatenate(parts, axis=1) for parts in zip(*found))
    order = np.lexsort((ranks, -scores))[:, :k]
    return np.take_along_axis(ranks, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _search_rows(
    queries: list[np.ndarray],
    first: int,
    last: int,
    done: Callable[[int], object],
    *,
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    numbers: Sequence[int],
    absent: np.ndarray,
    unit: bool,
    block_rows: int,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks and scores (Q, k) of one batch of queries among rows first to last of the used components.

    numbers: theirs among all, for messages; absent: rows never returned, rising; block_rows: read at once.
    """
    ranks, scores = np.full((len(queries[0]), k), -1), np.full((len(queries[0]), k), -np.inf)
    absent = absent[slice(*np.searchsorted(absent, (first, last)))]
    empty = np.all([~q.any(axis=1) for q in queries], axis=0) | ~weights.any()
    allowed = np.setdiff1d(np.arange(first, min(last, first + k + len(absent))), absent)[:k]
    ranks[np.flatnonzero(empty)[:, None], np.arange(len(allowed))] = allowed
    scores[np.flatnonzero(empty)[:, None], np.arange(len(allowed))] = 0.0
    active = np.flatnonzero(~empty)
    if not len(active):
        done(last - first)
        return ranks, scores
    queries = [q[active] for q in queries]
    # the weight goes to the query's side, so that the fused score is a plain sum of products
    scaled = [float32_rows(np.asarray(q, np.float64) * w) for q, w in zip(queries, weights)]
    lengths = [abs(w) * np.sqrt(np.square(q, dtype=np.float64).sum(axis=1)) for q, w in zip(queries, weights)]

    def rescore(query: int, rows: np.ndarray) -> np.ndarray:
        return fused_score([q[query] for q in queries], [part[rows] for part in gallery], weights)

    shortlist = Shortlist(len(active), k, rescore)
    out = np.empty((len(active), block_rows), np.float32)
    other = np.empty_like(out) if len(queries) > 1 else out
    buffers = [
        None if part.dtype == np.float32 else np.empty((out.shape[1], part.shape[1]), np.float32)
        for part in gallery
    ]
    for start in range(first, last, block_rows):
        stop = min(start + block_rows, last)
        if stop - start < out.shape[1]:  # the last block: keep the products' output contiguous
            out = np.empty((len(active), stop - start), np.float32)
            other = np.empty_like(out) if len(queries) > 1 else out
        error = np.zeros(len(active))
        for place, (part, buffer) in enumerate(zip(gallery, buffers)):
            read = part[start:stop]
            rows = float32_rows(read, buffer)
            bound = UNIT_NORM if unit else _largest_norm(rows, start, numbers[place])
            error += margin(rows.shape[1], lengths[place] * bound, extra=len(queries))
            error += rows.shape[1] * 2.0**-125 * bound  # weighted queries may underflow
            np.matmul(scaled[place], rows.T, out=other if place else out)
            forget(read)
            if place:
                out += other
        out[:, absent[slice(*np.searchsorted(absent, (start, stop)))] - start] = -np.inf
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


def check_finite(rows: np.ndarray, start: int, name: str) -> None:
    """Raise Top7Error naming the first row (numbered from `start`) of rows (m, D) that is not finite."""
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise Top7Error(
            f"{name}: row {start + int(np.argmax(bad))} is not finite; extract it again, or mark the image "
            "as unreadable"
        )
