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
WAITING = 32  # items a query, on average, that wait before thresholds are sharpened
FIRST_LOOK = 2048  # rows of the first block that give the first thresholds where no sample is given
FILTER_BYTES = 2 << 20  # similarities of the queries filtered at once: what a core's caches hold

Block = tuple[int, Sequence[np.ndarray]]
Canonical = Callable[[int, np.ndarray], np.ndarray]
Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # queries (m,), rows (m,), f (m, J)
Settle = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]


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

    def in_place(self, layers: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Turn scaled similarities, one float32 array a component, into f_j, one array a vertex, and return them."""
        for chain in self.members:
            for deeper, position in zip(chain[:0:-1], chain[-2::-1]):
                np.add(layers[position], layers[deeper], out=layers[position])
        return layers


class _Running:
    """The running candidates of all queries, by approximate fast coordinates f; thresholds (Q, G, J), sharpest first.

    All work is on all queries at once. Nothing here is exact: an item goes only when k others lie above it by twice
    the slack, so both may err.
    """

    def __init__(self, n_queries: int, slack: np.ndarray, k: int, limit: int, settle: Settle):
        self.n_queries, self.slack, self.k, self.limit, self.settle = n_queries, slack, k, limit, settle
        self.thresholds = np.full((n_queries, 1, len(slack)), -np.inf, dtype=np.float32)
        self.kept: Found = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, len(slack)), np.float32))
        self.waiting: list[Found] = []

    @property
    def is_due(self) -> bool:
        """Whether enough waits to be worth a sharpening."""
        return sum(len(rows) for _, rows, _ in self.waiting) > max(WAITING * self.n_queries, 2 * len(self.kept[0]))

    def first_look(self, values: Sequence[np.ndarray], pool: ThreadPoolExecutor, parts: Sequence[np.ndarray]) -> None:
        """Take thresholds from f of some gallery rows, J arrays (Q, m), queries in `parts` at once; no row is kept."""
        def look(part: np.ndarray) -> np.ndarray:
            f = np.stack([value[part] for value in values])
            return self._sharpest(f, _champions(f, np.ones(f.shape[1:], dtype=bool), self.k))

        self.thresholds = np.concatenate(list(pool.map(look, parts)))

    def sharpen(self) -> None:
        """Drop of what is kept and waits all that k others exclude for certain, and sharpen the thresholds."""
        parts = [self.kept, *self.waiting]
        queries, rows, f = (np.concatenate([part[number] for part in parts]) for number in range(3))
        self.waiting = []
        left = np.ones(len(rows), dtype=bool)
        for threshold in np.moveaxis(self.thresholds, 1, 0):
            left &= (f >= threshold[queries]).any(axis=1)
        order = np.flatnonzero(left)[np.lexsort((rows[left], queries[left]))]
        queries, rows, f = queries[order], rows[order], f[order]
        ends = np.searchsorted(queries, np.arange(self.n_queries + 1))
        keep, thresholds = np.ones(len(rows), dtype=bool), []
        size = max(1, int(1e6) // max(1, int(np.diff(ends).max(initial=0))))
        for first in range(0, self.n_queries, size):
            last = min(first + size, self.n_queries)
            own = slice(ends[first], ends[last])
            sharper, kept = self._sharpen_some(queries[own] - first, ends[first:last + 1] - ends[first], f[own])
            thresholds.append(sharper)
            keep[own] = kept
        self.thresholds = np.concatenate(thresholds)
        for query in np.flatnonzero(np.bincount(queries[keep], minlength=self.n_queries) > self.limit):
            own = np.arange(ends[query], ends[query + 1])  # ties and near ties: the exact rule decides
            own = own[keep[own]]
            exact, _ = self.settle(int(query), rows[own])
            if len(exact) > self.limit:
                raise PrunesBadly(f"{len(exact)} candidates for one query after part of the gallery")
            keep[own] = np.isin(rows[own], exact)
        self.kept = queries[keep], rows[keep], f[keep]

    def _sharpen_some(self, queries: np.ndarray, ends: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return thresholds (q, G, J) and which of the items (sorted by query) stay."""
        n, widest = len(ends) - 1, max(self.k, int(np.diff(ends).max(initial=0)))
        places = np.arange(len(queries)) - ends[queries]
        padded = np.full((f.shape[1], n, widest), -np.inf, dtype=np.float32)
        padded[:, queries, places] = f.T
        there = np.zeros((n, widest), dtype=bool)
        there[queries, places] = True
        champions = _champions(padded, there, self.k)
        thresholds = self._sharpest(padded, champions)
        rivals = np.zeros((n, widest), dtype=bool)
        for best in champions:
            np.put_along_axis(rivals, best, True, axis=1)
        rivals &= there
        lower = padded + 2 * self.slack[:, None, None].astype(np.float32) * (1 + 2.0**-20)
        counts = np.zeros((n, widest), dtype=np.int16)
        rival = np.argsort(~rivals, axis=1, kind="stable")[:, :rivals.sum(axis=1).max(initial=0)]
        lines = np.arange(n)
        for column in rival.T:
            above = np.repeat((rivals[lines, column])[:, None], widest, axis=1)
            for j in range(len(padded)):
                above &= padded[j, lines, column][:, None] > lower[j]
            counts += above
        return thresholds, (counts < self.k)[queries, places]

    def _sharpest(self, f: np.ndarray, champions: Sequence[np.ndarray]) -> np.ndarray:
        """Return (q, G, J) float32: the least f of each set of champions less twice the slack, sharpest first."""
        lowest = np.stack([np.take_along_axis(f, best[None], axis=2).min(axis=2).T for best in champions])
        thresholds = (lowest - 2 * self.slack).astype(np.float32)
        passed = []
        for threshold in thresholds:
            above = np.zeros(f.shape[1:], dtype=bool)
            for j in range(len(f)):
                above |= f[j] >= threshold[:, j, None]
            passed.append(above.sum(axis=1))
        order = np.argsort(np.array(passed), axis=0, kind="stable").T
        return np.take_along_axis(np.moveaxis(thresholds, 0, 1), order[:, :, None], axis=1)


def _champions(f: np.ndarray, there: np.ndarray, k: int) -> list[np.ndarray]:
    """Return sets of k columns, (q, k) each, that are high everywhere at once; f: (J, q, n), `there`: (q, n) bool."""
    count = np.maximum(there.sum(axis=1), 1)[:, None]
    known = np.where(there, f, 0)
    mean = known.sum(axis=2, keepdims=True) / count
    deviation = np.sqrt((np.where(there, f - mean, 0) ** 2).sum(axis=2, keepdims=True) / count) + np.float32(1e-12)
    standard = (known - mean) / deviation
    worst, total = standard.min(axis=0), standard.sum(axis=0)
    criteria = [worst, total + worst, total, *(line + np.float32(0.3) * worst for line in standard)]
    k = min(k, f.shape[2])
    return [np.argpartition(np.where(there, -value, np.inf), k - 1, axis=1)[:, :k] for value in criteria]


def settled(rows: np.ndarray, similarities: np.ndarray, corners: np.ndarray, k: int,
            limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (n,) and similarities (n, L) that fewer than k of them exclude, by the exact rule."""
    coordinates = similarities @ corners.T
    keep = np.ones(len(rows), dtype=bool)
    for threshold in champion_thresholds(coordinates, k):
        keep &= (coordinates >= threshold - SCORE_MARGIN).any(axis=1)
    rows, similarities, coordinates = rows[keep], similarities[keep], coordinates[keep]
    if len(rows) > 4 * limit:
        return rows, similarities
    keep = exclusion_counts(coordinates, similarities, rows, k) < k
    return rows[keep], similarities[keep]


def find_candidates(blocks: Iterable[Block], canonical: Canonical, fast: FastCoordinates, k: int, *, n_queries: int,
                    similarity_margin: np.ndarray, excluded: np.ndarray | None = None,
                    always: Sequence[np.ndarray] | None = None, sample: Sequence[np.ndarray] | None = None,
                    limit: int = 20_000, threads: int = 2) -> Candidates:
    """Return the candidates of every query after one pass over `blocks` of the gallery.

    blocks: (first row, one (n_queries, m) float32 array of approximate similarities a component, scaled by
    `fast.scale`, overwritten here), in any order; canonical(query, rows (m,)) -> (m, L) float64 canonical
    similarities; similarity_margin: (L,) bounds on |approximate - scale * canonical|; excluded: (n,) bool, rows that
    take part in nothing; always: rows to keep whatever happens (the relevant ones), per query; sample: what a block
    holds, of distinct rows from all over the gallery that are not excluded, for the first thresholds. PrunesBadly
    when a query keeps more than `limit`. The result does not depend on blocks or threads: it ends in one exact
    settling.
    """
    slack = np.zeros(len(fast.corners))
    for chain in fast.members:  # errors add up along the running sum, whose own additions round too
        slack[chain[::-1]] = np.cumsum((similarity_margin + (len(chain) + 3) * 2.0**-23 * fast.scale)[chain[::-1]])

    def settle(query: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return settled(rows, canonical(query, rows), fast.corners, k, limit)

    running = _Running(n_queries, slack, k, limit, settle)
    parts = np.array_split(np.arange(n_queries), max(1, min(threads, n_queries)))

    with ThreadPoolExecutor(len(parts)) as pool:
        if sample is not None and sample[0].shape[1] >= k:
            running.first_look(fast.in_place(sample), pool, parts)
        for start, layers in blocks:
            if not np.isfinite(running.thresholds).any():
                usable = slice(FIRST_LOOK) if excluded is None else \
                    np.flatnonzero(~excluded[start:start + layers[0].shape[1]])[:FIRST_LOOK]
                looked_at = [layer[:, usable].copy() for layer in layers]
                if looked_at[0].shape[1] >= k:
                    running.first_look(fast.in_place(looked_at), pool, parts)
            for found in pool.map(lambda part: _above(part, start, layers, fast, running.thresholds[:, 0], excluded), parts):
                running.waiting += found
            if running.is_due:
                running.sharpen()
        running.sharpen()
        queries, rows, _ = running.kept
        own = np.split(rows, np.searchsorted(queries, np.arange(1, n_queries)))
        found = list(pool.map(lambda number: settle(number, own[number]), range(n_queries)))
    for rows, _ in found:
        if len(rows) > limit:
            raise PrunesBadly(f"{len(rows)} candidates for one query")
    found = [_with_always(*own, number, always, excluded, canonical) for number, own in enumerate(found)]
    return Candidates(tuple(rows for rows, _ in found), tuple(values for _, values in found))


def _above(part: np.ndarray, start: int, layers: Sequence[np.ndarray], fast: FastCoordinates, thresholds: np.ndarray,
           excluded: np.ndarray | None) -> list[Found]:
    """Return (queries, rows, f) of what reaches a threshold (Q, J) of its query somewhere; overwrites `layers`."""
    width, found = layers[0].shape[1], []
    size = max(1, FILTER_BYTES // (4 * len(layers) * max(1, width)))
    for first in range(int(part[0]), int(part[-1]) + 1, size):  # so few queries that they stay in the core's cache
        own = slice(first, min(first + size, int(part[-1]) + 1))
        values = fast.in_place([layer[own] for layer in layers])
        hopeful = np.zeros(values[0].shape, dtype=bool)
        for value, threshold in zip(values, thresholds[own].T):
            hopeful |= value >= threshold[:, None]
        places = _true_places(hopeful)
        if excluded is not None:
            places = places[~excluded[start + places % width]]
        if len(places):
            queries, columns = np.divmod(places, width)
            found.append((queries + first, columns + start,
                          np.stack([value[queries, columns] for value in values], axis=1)))
    return found


def _true_places(flags: np.ndarray) -> np.ndarray:
    """`np.flatnonzero` of C-contiguous bools, eight at a time: few are true."""
    if flags.size % 8:
        return np.flatnonzero(flags)
    words = np.flatnonzero(flags.reshape(-1).view(np.uint64))
    word, byte = np.nonzero(flags.reshape(-1, 8)[words])
    return words[word] * 8 + byte


def _with_always(rows: np.ndarray, similarities: np.ndarray, number: int, always: Sequence[np.ndarray] | None,
                 excluded: np.ndarray | None, canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, similarities) by ascending row, the rows to keep in any case among them."""
    missing = np.setdiff1d(np.asarray(always[number], dtype=np.int64), rows) if always is not None else rows[:0]
    if excluded is not None:
        missing = missing[~excluded[missing]]
    if len(missing):
        rows = np.concatenate([rows, missing])
        similarities = np.concatenate([similarities, canonical(number, missing)])
    order = np.argsort(rows, kind="stable")
    return rows[order], similarities[order]
