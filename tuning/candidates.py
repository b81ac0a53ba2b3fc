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
from functools import partial

import numpy as np

from competition.errors import Top7Error

# |computed - true| of a float64 score or vertex coordinate of unit similarities stays far below this
SCORE_MARGIN = 1e-11
SETTLE_FIRST, SETTLE_AFTER = 24, 192  # waiting rows that make a query settle: soon at first, for sharp thresholds
FIRST_LOOK = 2048  # rows whose approximate coordinates give a query its first thresholds

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
    standard = (coordinates - coordinates.mean(axis=0)) / (coordinates.std(axis=0) + 1e-12)
    worst = standard.min(axis=1)
    criteria = [worst, standard.sum(axis=1) + worst, standard.sum(axis=1)]
    criteria += [standard[:, j] + 0.3 * worst for j in range(n_vertices)]
    best = [coordinates[np.argpartition(-value, k - 1)[:k]].min(axis=0) for value in criteria]
    return np.unique(np.array(best), axis=0)


@dataclass(frozen=True)
class FastCoordinates:
    """Vertex coordinates as running sums: f_j = sum of scale_l s_l over l >= j in j's chain = factor_j t_j.

    corners: (J, L) vertices; members: the positions of each chain's components, shallow to deep; the blocks'
    similarities come scaled already (`scale` times the queries), so a coordinate costs one addition.
    """

    corners: np.ndarray
    members: tuple[np.ndarray, ...]

    @property
    def scale(self) -> np.ndarray:
        """(L,): what the queries of each component are multiplied by; at most 1."""
        scale = np.ones(self.corners.shape[1])
        for chain in self.members:  # the first vertex of a chain weighs all of it, as 1 / S_l
            scale[chain] = self.corners[chain[0], chain] / self.corners[chain[0], chain].max()
        return scale

    @property
    def factor(self) -> np.ndarray:
        """(J,): f_j / t_j."""
        return self.scale / np.diag(self.corners)

    def running(self, layers: Sequence[np.ndarray]):
        """Yield (vertex, f_j) for scaled similarities, one array a component; the array is overwritten next."""
        for chain in self.members:
            total = None
            for position in chain[::-1]:
                total = layers[position].copy() if total is None else np.add(total, layers[position], out=total)
                yield position, total

    def of(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Return (m, J) float32 f of scaled similarities, L arrays (m,)."""
        found = np.empty((len(layers[0]), len(self.corners)), dtype=np.float32)
        for vertex, values in self.running(layers):
            found[:, vertex] = values
        return found


class _Query:
    """The running candidates of one query; thresholds (G, J) are in fast coordinates, the sharpest first."""

    def __init__(self, corners: np.ndarray, factor: np.ndarray, slack: np.ndarray, k: int, limit: int):
        self.corners, self.factor, self.slack, self.k, self.limit = corners, factor, slack, k, limit
        self.rows = np.empty(0, dtype=np.int64)
        self.similarities = np.empty((0, corners.shape[1]))
        self.thresholds = np.empty((0, len(corners)), dtype=np.float32)
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.n_waiting = 0

    def first_look(self, fast: np.ndarray) -> None:
        """Take thresholds from approximate coordinates (m, J) of some rows; both sides may err: twice the slack."""
        self.thresholds = (champion_thresholds(fast.astype(np.float64), self.k) - 2 * self.slack).astype(np.float32)

    def wait(self, rows: np.ndarray, fast: np.ndarray) -> bool:
        """Keep rows with their approximate coordinates (m, J) for later; says whether it is time to settle."""
        self.waiting.append((rows, fast))
        self.n_waiting += len(rows)
        return self.n_waiting > (SETTLE_FIRST if not len(self.rows) else max(SETTLE_AFTER, len(self.rows) // 2))

    def take_in(self, canonical: Callable[[np.ndarray], np.ndarray]) -> None:
        """Look at what waits once more by all thresholds, rescore what is left canonically, and settle."""
        if not self.waiting:
            return
        rows = np.concatenate([rows for rows, _ in self.waiting])
        fast = np.concatenate([fast for _, fast in self.waiting])
        self.waiting, self.n_waiting = [], 0
        for threshold in self.thresholds:
            left = (fast >= threshold).any(axis=1)
            rows, fast = rows[left], fast[left]
        if len(rows):
            self.rows = np.concatenate([self.rows, rows])
            self.similarities = np.concatenate([self.similarities, canonical(rows)])
            self.settle()

    def settle(self) -> None:
        """Drop what k kept items exclude, then sharpen the thresholds."""
        coordinates = self.similarities @ self.corners.T
        keep = np.ones(len(self.rows), dtype=bool)
        for threshold in champion_thresholds(coordinates, self.k):
            keep &= (coordinates >= threshold - SCORE_MARGIN).any(axis=1)
        coordinates = self._keep(keep, coordinates)
        if len(self.rows) <= 4 * self.limit:
            counts = exclusion_counts(coordinates, self.similarities, self.rows, self.k)
            coordinates = self._keep(counts < self.k, coordinates)
        if len(self.rows) > self.limit:
            raise PrunesBadly(f"{len(self.rows)} candidates for one query after part of the gallery")
        thresholds = champion_thresholds(coordinates, self.k)
        if len(thresholds):  # the set that keeps least of what is left stands first
            kept = [(coordinates >= threshold).any(axis=1).sum() for threshold in thresholds]
            order = np.argsort(kept, kind="stable")
            self.thresholds = (thresholds[order] * self.factor - self.slack).astype(np.float32)

    def _keep(self, keep: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
        self.rows, self.similarities = self.rows[keep], self.similarities[keep]
        return coordinates[keep]


def find_candidates(blocks: Iterable[Block], canonical: Canonical, fast: FastCoordinates, k: int, *, n_queries: int,
                    similarity_margin: np.ndarray, excluded: np.ndarray | None = None,
                    always: Sequence[np.ndarray] | None = None, limit: int = 20_000, threads: int = 2) -> Candidates:
    """Return the candidates of every query after one pass over `blocks` of the gallery.

    blocks: (first row, one (n_queries, m) float32 array of approximate similarities a component, scaled by
    `fast.scale`), in any order; canonical(query, rows (m,)) -> (m, L) float64 canonical similarities;
    similarity_margin: (L,) bounds on |approximate - scale * canonical|; excluded: (n,) bool, rows that take part in
    nothing; always: rows to keep whatever happens (the relevant ones), per query. PrunesBadly when a query keeps
    more than `limit`. The result does not depend on blocks or threads: it ends in one exact settling.
    """
    slack = np.zeros(len(fast.corners))
    for chain in fast.members:  # errors add up along the running sum, whose own additions round too
        slack[chain[::-1]] = np.cumsum((similarity_margin + (len(chain) + 3) * 2.0**-23 * fast.scale)[chain[::-1]])
    queries = [_Query(fast.corners, fast.factor, slack, k, limit) for _ in range(n_queries)]
    parts = np.array_split(np.arange(n_queries), max(1, min(threads, n_queries)))

    def take(part: np.ndarray, start: int, layers: Sequence[np.ndarray]) -> None:
        layers = [layer[part[0]:part[-1] + 1] for layer in layers]
        usable = None if excluded is None else ~excluded[start:start + layers[0].shape[1]]
        thresholds = _first_thresholds(queries, part, layers, fast, usable)
        hopeful, above = np.zeros(layers[0].shape, dtype=bool), np.empty(layers[0].shape, dtype=bool)
        for vertex, values in fast.running(layers):
            hopeful |= np.greater_equal(values, thresholds[:, vertex, None], out=above)
        if usable is not None:
            hopeful &= usable
        places, columns = np.nonzero(hopeful)
        coordinates = fast.of([layer[places, columns] for layer in layers])
        ends = np.searchsorted(places, np.arange(len(part) + 1))
        for place in np.flatnonzero(np.diff(ends)):
            own, query = slice(ends[place], ends[place + 1]), queries[part[place]]
            if query.wait(columns[own] + start, coordinates[own]):
                query.take_in(partial(canonical, int(part[place])))

    with ThreadPoolExecutor(len(parts)) as pool:
        for start, layers in blocks:
            list(pool.map(lambda part: take(part, start, layers), parts))
        list(pool.map(lambda number: queries[number].take_in(partial(canonical, number)), range(n_queries)))
    found = [_with_always(query, number, always, excluded, canonical) for number, query in enumerate(queries)]
    return Candidates(tuple(rows for rows, _ in found), tuple(values for _, values in found))


def _first_thresholds(queries: Sequence[_Query], part: np.ndarray, layers: Sequence[np.ndarray], fast: FastCoordinates,
                      usable: np.ndarray | None) -> np.ndarray:
    """Return (len(part), J): the sharpest threshold of each query; -inf where there is none yet."""
    found = np.full((len(part), len(fast.corners)), -np.inf, dtype=np.float32)
    for place, number in enumerate(part):
        if not len(queries[number].thresholds):
            sample = slice(0, FIRST_LOOK) if usable is None else np.flatnonzero(usable)[:FIRST_LOOK]
            queries[number].first_look(fast.of([layer[place, sample] for layer in layers]))
        if len(queries[number].thresholds):
            found[place] = queries[number].thresholds[0]
    return found


def _with_always(query: _Query, number: int, always: Sequence[np.ndarray] | None, excluded: np.ndarray | None,
                 canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, similarities) by ascending row, the rows to keep in any case among them."""
    rows, similarities = query.rows, query.similarities
    missing = np.setdiff1d(np.asarray(always[number], dtype=np.int64), rows) if always is not None else rows[:0]
    if excluded is not None:
        missing = missing[~excluded[missing]]
    if len(missing):
        rows = np.concatenate([rows, missing])
        similarities = np.concatenate([similarities, canonical(number, missing)])
    order = np.argsort(rows, kind="stable")
    return rows[order], similarities[order]
