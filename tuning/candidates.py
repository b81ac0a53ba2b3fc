"""Lossless candidates: the few gallery items that can reach the top k for some weights of the region.

For weights of the region the score is lambda . t with lambda >= 0 and t_j = (vertex j) . s, so an item is out for
good once k others exclude it: each is larger in every t_j by more than the rounding error, or at least as large
in every similarity s_l and earlier in gallery order (float sums are monotone, so the computed score is then at
least as large too, and the tie goes to the earlier row). Every removal is justified by k actual items, so what
is kept is a superset of every top k, whatever the order in which the blocks come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from competition.errors import Top7Error

# |computed - true| of a float64 score or vertex coordinate of unit similarities stays far below this
SCORE_MARGIN = 1e-11

Block = tuple[int, Sequence[np.ndarray]]
Canonical = Callable[[int, np.ndarray], np.ndarray]


class PrunesBadly(Top7Error):
    """The region keeps more candidates than memory allows; recombine the full lists instead."""


@dataclass(frozen=True)
class Candidates:
    """Per query the rows (ascending int64) that can matter and their canonical similarities (n, L) float64."""

    rows: tuple[np.ndarray, ...]
    similarities: tuple[np.ndarray, ...]

    @property
    def mean_count(self) -> float:
        """Candidates a query, on average."""
        return float(np.mean([len(rows) for rows in self.rows])) if self.rows else 0.0


def exclusion_counts(coordinates: np.ndarray, similarities: np.ndarray, rows: np.ndarray, k: int,
                     margin: float = SCORE_MARGIN) -> np.ndarray:
    """Return how many items exclude each item, (n,) int64 (exact below `k`, at least `k` otherwise).

    `coordinates`: t, (n, J) float64; `similarities`: s, (n, L) float64; `rows`: gallery rows, the tie order.
    """
    n = len(rows)
    order = np.lexsort((rows, -coordinates.sum(axis=1)))  # those that exclude most come first
    t, s, r = coordinates[order], similarities[order], rows[order]
    counts = np.zeros(n, dtype=np.int64)
    chunk = max(1, int(4e6) // max(n, 1))
    alive = np.arange(n)
    for start in range(0, n, chunk):  # rivals chunk by chunk; who has k already needs no more
        alive = alive[counts[alive] < k]
        if not len(alive):
            break
        rivals = slice(start, min(start + chunk, n))
        above = np.ones((len(alive), rivals.stop - start), dtype=bool)
        for j in range(t.shape[1]):
            above &= t[rivals, j] > t[alive, j, None] + margin
        earlier = r[rivals] < r[alive, None]
        for l in range(s.shape[1]):
            earlier &= s[rivals, l] >= s[alive, l, None]
        counts[alive] += (above | earlier).sum(axis=1)
    result = np.empty(n, dtype=np.int64)
    result[order] = counts
    return result


def champion_thresholds(coordinates: np.ndarray, k: int) -> np.ndarray:
    """Return (G, J): each row the smallest coordinates of k items, so that what lies below all of them is out.

    Sets of k that are high everywhere at once exclude most: the best worst coordinate, the best sum, the best
    at each vertex. Empty (0, J) with fewer than k items.
    """
    n, n_vertices = coordinates.shape
    if n < k:
        return np.empty((0, n_vertices), dtype=coordinates.dtype)
    spread = coordinates.std(axis=0) + 1e-12
    standard = (coordinates - coordinates.mean(axis=0)) / spread
    ranks = np.argsort(np.argsort(-coordinates, axis=0, kind="stable"), axis=0, kind="stable")
    criteria = [standard.min(axis=1), -ranks.max(axis=1).astype(np.float64), standard.sum(axis=1)]
    criteria += [standard[:, j] + 0.3 * standard.min(axis=1) for j in range(n_vertices)]
    best = [coordinates[np.argpartition(-value, k - 1)[:k]].min(axis=0) for value in criteria]
    return np.unique(np.array(best), axis=0)


class _Query:
    """The running candidates of one query."""

    def __init__(self, always: np.ndarray, corners: np.ndarray, k: int, limit: int):
        self.always, self.corners, self.k, self.limit = always, corners, k, limit
        self.rows = np.empty(0, dtype=np.int64)
        self.similarities = np.empty((0, corners.shape[1]))
        self.thresholds = np.empty((0, len(corners)), dtype=np.float32)
        self.settled = 0

    def survivors(self, approximate: np.ndarray, slack: float) -> np.ndarray:
        """Return the columns of `approximate` (J, m) float32 that no threshold excludes."""
        if not len(self.thresholds):
            # first look: k of the block itself serve as champions (their error and the item's: twice the slack)
            usable = approximate[:, np.isfinite(approximate[0])]  # excluded columns are -inf
            self.thresholds = champion_thresholds(usable.T.astype(np.float64), self.k).astype(np.float32)
            self.thresholds -= np.float32(slack)
            if not len(self.thresholds):
                return np.arange(approximate.shape[1])
        first = (approximate >= self.thresholds[0][:, None]).any(axis=0)
        columns = np.flatnonzero(first)
        for threshold in self.thresholds[1:]:
            if not len(columns):
                break
            columns = columns[(approximate[:, columns] >= threshold[:, None]).any(axis=0)]
        return columns

    def add(self, rows: np.ndarray, similarities: np.ndarray, slack: float) -> None:
        """Take in rows with their canonical similarities; settle when enough wait."""
        self.rows = np.concatenate([self.rows, rows])
        self.similarities = np.concatenate([self.similarities, similarities])
        if len(self.rows) - self.settled > max(64, self.settled // 4):
            self.settle(slack)

    def settle(self, slack: float) -> None:
        """Drop what k kept items exclude, then sharpen the thresholds."""
        coordinates = self.similarities @ self.corners.T
        keep = np.ones(len(self.rows), dtype=bool)
        for threshold in champion_thresholds(coordinates, self.k):
            keep &= (coordinates >= threshold - SCORE_MARGIN).any(axis=1)
        self._keep(keep)
        if len(self.rows) > 4 * self.limit:
            raise PrunesBadly(f"{len(self.rows)} candidates for one query after part of the gallery")
        coordinates = coordinates[keep]
        keep = exclusion_counts(coordinates, self.similarities, self.rows, self.k) < self.k
        self._keep(keep)
        if len(self.rows) > self.limit:
            raise PrunesBadly(f"{len(self.rows)} candidates for one query after part of the gallery")
        self.settled = len(self.rows)
        thresholds = champion_thresholds(coordinates[keep], self.k)
        if len(thresholds):  # the set that keeps least of what is left stands first
            kept = [(coordinates[keep] >= threshold).any(axis=1).sum() for threshold in thresholds]
            order = np.argsort(kept, kind="stable")
            self.thresholds = (thresholds[order] - slack).astype(np.float32)

    def _keep(self, keep: np.ndarray) -> None:
        self.rows, self.similarities = self.rows[keep], self.similarities[keep]


def find_candidates(blocks: Iterable[Block], canonical: Canonical, corners: np.ndarray, k: int, *,
                    n_queries: int, similarity_margin: float, excluded: np.ndarray | None = None,
                    always: Sequence[np.ndarray] | None = None, limit: int = 20_000, threads: int = 2) -> Candidates:
    """Return the candidates of every query after one pass over `blocks` of the gallery.

    blocks: (first row, one (n_queries, m) float32 array of approximate similarities a component), in any order;
    canonical(query, rows (m,)) -> (m, L) float64 canonical similarities; corners: the region's vertices (J, L);
    similarity_margin: bound on |approximate - canonical|; excluded: (n,) bool, rows that take part in nothing;
    always: rows to keep whatever happens (the relevant ones), per query. PrunesBadly when a query keeps more
    than `limit`. The result does not depend on blocks or threads: it ends in one exact settling.
    """
    corners = np.asarray(corners, dtype=np.float64)
    corners32 = corners.astype(np.float32)
    # a coordinate is a convex sum of similarities: their error, and the float32 sum's own; both sides may err
    slack = 2.0 * (similarity_margin + (corners.shape[1] + 2) * 2.0**-23)
    always = always if always is not None else [np.empty(0, dtype=np.int64)] * n_queries
    queries = [_Query(np.asarray(rows, dtype=np.int64), corners, k, limit) for rows in always]

    def take(number: int, start: int, layers: Sequence[np.ndarray]) -> None:
        query = queries[number]
        approximate = corners32 @ np.stack([layer[number] for layer in layers])
        if excluded is not None:
            approximate[:, excluded[start:start + approximate.shape[1]]] = -np.inf
        columns = query.survivors(approximate, slack)
        rows = columns + start
        if excluded is not None:
            rows = rows[~excluded[rows]]
        if len(rows):
            query.add(rows, canonical(number, rows), slack)

    with ThreadPoolExecutor(threads) as pool:
        for start, layers in blocks:
            list(pool.map(lambda number: take(number, start, layers), range(n_queries)))
        list(pool.map(lambda query: _finish(query, slack), queries))
    result = []
    for number, query in enumerate(queries):
        missing = np.setdiff1d(query.always, query.rows)
        if excluded is not None:
            missing = missing[~excluded[missing]]
        rows, similarities = query.rows, query.similarities
        if len(missing):
            rows = np.concatenate([rows, missing])
            similarities = np.concatenate([similarities, canonical(number, missing)])
        order = np.argsort(rows, kind="stable")
        result.append((rows[order], similarities[order]))
    return Candidates(tuple(r for r, _ in result), tuple(s for _, s in result))


def _finish(query: _Query, slack: float) -> None:
    if len(query.rows):
        query.settle(slack)
