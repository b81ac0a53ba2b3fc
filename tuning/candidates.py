"""Lossless candidates: the few gallery items that can reach the top k for some weights of the region.

For weights of the region the score is lambda . t with lambda >= 0 and t_j = (vertex j) . s, so an item is out
for good once k others exclude it: each is larger in every t_j by more than the rounding error, or at least as
large in every similarity s_l and earlier in gallery order (float sums are monotone, so the computed score is
then at least as large too, and the tie goes to the earlier row). Every removal is justified by k actual
items, so what is kept is a superset of every top k, whatever the order in which the blocks come.

One pass over the gallery finds those of all queries: each query is filtered and sharpened as blocks come
(`tuning.running_candidates`), and settled by that rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from competition.messages import log
from competition.progress import Progress
from features.dumps import Dump
from features.search.sharding import map_over_shards
from features.search.similarity import UNIT_NORM, component_similarity, margin, similarity_blocks
from tuning.region import chain_members
from tuning.running_candidates import FastCoordinates, PrunesBadly, Running, above, champions

# |computed - true| of a float64 score or vertex coordinate of unit similarities stays far below this
SCORE_MARGIN = 1e-11
LOOKED_AT = 256  # items whose share that stays says whether too many will
CANDIDATE_LIMIT = 5_000
QUERY_BYTES = 200_000  # that a query and component take at most during a pass (measured)
PASS_BYTES = 512 << 20  # that the queries of one pass take; more queries take more passes
SCENE_BYTES = 1 << 30  # of one combination's candidates; past that each trial ranks the whole gallery

Block = tuple[int, Sequence[np.ndarray]]
Canonical = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidates:
    """Per query the rows (ascending int64) that can matter and their canonical similarities (n, L) float64."""

    rows: tuple[np.ndarray, ...]
    similarities: tuple[np.ndarray, ...]


def exclusion_counts(
    coordinates: np.ndarray,
    similarities: np.ndarray,
    rows: np.ndarray,
    k: int,
    items: np.ndarray | None = None,
) -> np.ndarray:
    """Return how many items exclude each of `items` (all), int64 (exact below `k`, at least `k` otherwise).

    `coordinates`: t, (n, J) float64; `similarities`: s, (n, L) float64; `rows`: gallery rows, the tie order.
    """
    n = len(rows)
    order = np.lexsort((rows, -coordinates.sum(axis=1)))  # those that exclude most come first
    t, s, r = coordinates[order], similarities[order], rows[order]
    counts = np.zeros(n, dtype=np.int64)
    chunk = max(1, int(4e6) // max(n, 1))
    alive = np.arange(n) if items is None else np.flatnonzero(np.isin(order, items))
    for start in range(0, n, chunk):  # rivals chunk by chunk; who has k already needs no more
        alive = alive[counts[alive] < k]
        if not len(alive):
            break
        rivals = slice(start, min(start + chunk, n))
        above = np.ones((len(alive), rivals.stop - start), dtype=bool)
        for j in range(t.shape[1]):
            above &= t[rivals, j] > t[alive, j, None] + SCORE_MARGIN
        earlier = r[rivals] < r[alive, None]
        for l in range(s.shape[1]):
            earlier &= s[rivals, l] >= s[alive, l, None]
        counts[alive] += (above | earlier).sum(axis=1)
    result = np.empty(n, dtype=np.int64)
    result[order] = counts
    return result if items is None else result[items]


def settled(
    rows: np.ndarray, similarities: np.ndarray, corners: np.ndarray, k: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (n,) and similarities (n, L) that fewer than k of them exclude, by the exact rule."""
    coordinates = similarities @ corners.T
    if len(rows) >= k:  # what lies below k champions everywhere is out
        least = [coordinates[best].min(axis=0) - SCORE_MARGIN for best in champions(coordinates.T, k)]
        keep = np.all([(coordinates >= threshold).any(axis=1) for threshold in least], axis=0)
        rows, similarities, coordinates = rows[keep], similarities[keep], coordinates[keep]
    if len(rows) > limit:  # all pairs of so many take minutes: look at a few first
        looked_at = np.arange(0, len(rows), max(1, len(rows) // LOOKED_AT))
        counts = exclusion_counts(coordinates, similarities, rows, k, items=looked_at)
        if (counts < k).mean() * len(rows) > limit:
            return rows, similarities
    keep = exclusion_counts(coordinates, similarities, rows, k) < k
    return rows[keep], similarities[keep]


def find_candidates(
    blocks: Iterable[Block],
    canonical: Canonical,
    fast: FastCoordinates,
    k: int,
    n_queries: int,
    similarity_margin: np.ndarray,
    excluded: np.ndarray,
    limit: int = 20_000,
    threads: int = 2,
) -> Candidates:
    """Return the candidates of every query after one pass over `blocks` of the gallery, or of a part of it.

    blocks: (first row, one (Q, m) float32 array of approximate similarities a component, scaled by
    `fast.scale`, overwritten here), in any order; canonical(query, rows (m,)) -> (m, L) float64 canonical
    similarities; similarity_margin: (L,) bounds on |approximate - scale * canonical|; excluded: (n,) bool,
    rows that take part in nothing. PrunesBadly when a query keeps more than `limit`. The result does not depend on
    blocks or threads: it ends in one exact settling, of one query after the other.
    """
    slack = np.zeros(len(fast.corners))
    for members in fast.members:  # errors add up along the running sum, whose own additions round too
        deepest_first = members[::-1]
        errors = similarity_margin + (len(members) + 3) * 2.0**-23 * fast.scale
        slack[deepest_first] = np.cumsum(errors[deepest_first])

    def settle(query: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return settled(rows, canonical(query, rows), fast.corners, k, limit)

    parts = np.array_split(np.arange(n_queries), max(1, min(threads, n_queries)))
    with ThreadPoolExecutor(len(parts)) as pool:
        running = Running(n_queries, slack, k, limit, settle, pool.map)
        for start, layers in blocks:
            block = start, layers, fast, running.thresholds, excluded
            running.add(chain.from_iterable(pool.map(partial(above, *block), parts)))
        running.sharpen()
        kept = list(pool.map(settle, range(n_queries), [rows for rows, _ in running.kept]))
    for left, _ in kept:
        if len(left) > limit:
            raise PrunesBadly(f"{len(left)} candidates for one query")
    return Candidates(tuple(left for left, _ in kept), tuple(values for _, values in kept))


def merged_candidates(
    parts: Sequence[Candidates],
    canonical: Canonical,
    corners: np.ndarray,
    k: int,
    excluded: np.ndarray,
    always: Sequence[np.ndarray],
    limit: int = 20_000,
) -> Candidates:
    """Return the candidates of a gallery from those of its parts: what one pass over all of it finds.

    An item that k others of the gallery exclude is excluded by k that no k exclude, and these are candidates
    of their parts. always: rows to keep whatever happens (the relevant ones), per query; for the others see
    `find_candidates`.
    """
    found = []
    for number, own in enumerate(zip(*(zip(part.rows, part.similarities) for part in parts))):
        rows, similarities = map(np.concatenate, zip(*own))
        if len(parts) > 1:
            rows, similarities = settled(rows, similarities, corners, k, limit)
        if len(rows) > limit:
            raise PrunesBadly(f"{len(rows)} candidates for one query")
        missing = np.setdiff1d(np.asarray(always[number], dtype=np.int64), rows)
        missing = missing[~excluded[missing]]
        if len(missing):
            rows = np.concatenate([rows, missing])
            similarities = np.concatenate([similarities, canonical(number, missing)])
        order = np.argsort(rows, kind="stable")
        found.append((rows[order], similarities[order]))
    return Candidates(tuple(rows for rows, _ in found), tuple(values for _, values in found))


def excluded_rows(dumps: Sequence[Dump]) -> np.ndarray:
    """Return (n,) bool: rows that some component could not read; they take part in nothing."""
    return np.logical_or.reduce([dump.unreadable for dump in dumps])


def candidate_limit(n_rows: int) -> int:
    """Return how many candidates a query may keep before ranking the whole gallery is the better way."""
    return min(CANDIDATE_LIMIT, max(1000, n_rows // 4))


def pass_over_gallery(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    corners: np.ndarray,
    chains: Sequence[str],
    k: int,
    relevant: Sequence[np.ndarray],
) -> Candidates | None:
    """Return the candidates of all queries, as many at once as memory allows; None where the region prunes badly."""
    arrays = [np.asarray(dump.descriptors) for dump in gallery]  # a memmap costs at each indexing
    fast, excluded = FastCoordinates(corners, tuple(chain_members(chains))), excluded_rows(gallery)
    size, limit = max(1, PASS_BYTES // (QUERY_BYTES * len(arrays))), candidate_limit(len(excluded))
    passes = range(0, len(relevant), size)
    rows: list[np.ndarray] = []
    similarities: list[np.ndarray] = []
    with Progress(total=len(excluded) * len(passes), unit="row", desc="candidates", leave=False) as bar:
        for first in passes:
            part = slice(first, first + size)
            own = [np.ascontiguousarray(dump.descriptors[part]) for dump in queries]
            shard = partial(_among_rows, own, arrays, fast, np.flatnonzero(excluded), k)
            canonical, always = partial(_canonical, own, arrays), relevant[part]
            try:
                shards = list(map_over_shards(shard, len(excluded), bar.update))
                found = merged_candidates(shards, canonical, corners, k, excluded, always, limit)
            except PrunesBadly as error:
                log.info(f"{error}: candidates are not kept")
                return None
            rows += found.rows
            similarities += found.similarities
            if (first + size) * max(map(len, rows)) * (8 * len(arrays) + 9) > SCENE_BYTES:
                return None
    return Candidates(tuple(rows), tuple(similarities))


def _canonical(
    queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray], number: int, rows: np.ndarray
) -> np.ndarray:
    return np.stack([component_similarity(q[number], g[rows]) for q, g in zip(queries, gallery)], axis=1)


def _among_rows(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    fast: FastCoordinates,
    absent: np.ndarray,
    k: int,
    first: int,
    last: int,
    done: Callable[[int], object],
) -> Candidates:
    """The candidates among rows first to last of the gallery; absent: rows that take part in nothing."""
    scaled = [(query * scale).astype(np.float32) for query, scale in zip(queries, fast.scale)]
    n_queries, excluded = len(queries[0]), np.zeros(len(gallery[0]), dtype=bool)
    excluded[absent] = True
    block_rows = int(np.clip((64 << 20) // (4 * len(gallery) * max(1, n_queries)), 256, 8192))

    def blocks() -> Iterator[tuple[int, Sequence[np.ndarray]]]:
        for start, layers in similarity_blocks(scaled, gallery, block_rows, range(first, last)):
            yield start, layers
            done(layers[0].shape[1])

    bounds = [margin(g.shape[1], UNIT_NORM**2 * scale, extra=2) for g, scale in zip(gallery, fast.scale)]
    canonical, limit = partial(_canonical, queries, gallery), candidate_limit(len(excluded))
    return find_candidates(blocks(), canonical, fast, k, n_queries, np.array(bounds), excluded, limit)
