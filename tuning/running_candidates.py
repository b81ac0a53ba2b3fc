"""What is still in the running while the gallery streams past, by fast approximate coordinates; all queries at once.

Nothing here is exact: an item goes only when k others lie above it by twice the slack, so both may err.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from competition.errors import Top7Error

WAITING = 32  # items a query, on average, that wait before thresholds are sharpened
FILTER_BYTES = 2 << 20  # similarities of the queries filtered at once: what a core's caches hold

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # queries (m,), rows (m,), f (m, J)
Settle = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]


class PrunesBadly(Top7Error):
    """The region keeps more candidates than memory allows; recombine the full lists instead."""


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


class Running:
    """The running candidates of all queries, by approximate fast coordinates f; thresholds (Q, G, J), sharpest first."""

    def __init__(self, n_queries: int, slack: np.ndarray, k: int, limit: int, settle: Settle):
        self.n_queries, self.slack, self.k, self.limit, self.settle = n_queries, slack, k, limit, settle
        self.thresholds = np.full((n_queries, 1, len(slack)), -np.inf, dtype=np.float32)
        none = np.empty(0, np.int64)
        self.kept: Found = none, none, np.empty((0, len(slack)), np.float32)
        self.waiting: list[Found] = []

    @property
    def is_due(self) -> bool:
        """Whether enough waits to be worth a sharpening."""
        return sum(len(rows) for _, rows, _ in self.waiting) > max(
            WAITING * self.n_queries, 2 * len(self.kept[0])
        )

    def first_look(
        self, values: Sequence[np.ndarray], pool: ThreadPoolExecutor, parts: Sequence[np.ndarray]
    ) -> None:
        """Take thresholds from f of some gallery rows, J arrays (Q, m), queries in `parts` at once; no row is kept."""

        def look(part: np.ndarray) -> np.ndarray:
            f = np.stack([value[part] for value in values])
            return self._sharpest(f, champions(f, np.ones(f.shape[1:], dtype=bool), self.k))

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
            own_ends = ends[first : last + 1] - ends[first]
            sharper, keep[own] = self._sharpen_some(queries[own] - first, own_ends, f[own])
            thresholds.append(sharper)
        self.thresholds = np.concatenate(thresholds)
        kept = np.bincount(queries[keep], minlength=self.n_queries)
        if (
            np.median(kept) > self.limit
        ):  # a few queries may hold ties; settling most takes minutes for nothing
            raise PrunesBadly(
                f"about {np.median(kept):,.0f} candidates for one query after part of the gallery, more than {self.limit:,}"
            )
        for query in np.argsort(-kept, kind="stable")[: np.count_nonzero(kept > self.limit)]:
            near = np.arange(ends[query], ends[query + 1])  # ties and near ties: the exact rule decides
            near = near[keep[near]]
            exact, _ = self.settle(int(query), rows[near])
            if len(exact) > self.limit:
                raise PrunesBadly(f"{len(exact)} candidates for one query after part of the gallery")
            keep[near] = np.isin(rows[near], exact)
        self.kept = queries[keep], rows[keep], f[keep]

    def _sharpen_some(
        self, queries: np.ndarray, ends: np.ndarray, f: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return thresholds (q, G, J) and which of the items (sorted by query) stay."""
        n, widest = len(ends) - 1, max(self.k, int(np.diff(ends).max(initial=0)))
        places = np.arange(len(queries)) - ends[queries]
        padded = np.full((f.shape[1], n, widest), -np.inf, dtype=np.float32)
        padded[:, queries, places] = f.T
        there = np.zeros((n, widest), dtype=bool)
        there[queries, places] = True
        best = champions(padded, there, self.k)
        thresholds = self._sharpest(padded, best)
        rivals = np.zeros((n, widest), dtype=bool)
        for columns in best:
            np.put_along_axis(rivals, columns, True, axis=1)
        rivals &= there
        lower = padded + 2 * self.slack[:, None, None].astype(np.float32) * (1 + 2.0**-20)
        counts = np.zeros((n, widest), dtype=np.int16)
        rival = np.argsort(~rivals, axis=1, kind="stable")[:, : rivals.sum(axis=1).max(initial=0)]
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


def above(
    part: np.ndarray,
    start: int,
    layers: Sequence[np.ndarray],
    fast: FastCoordinates,
    thresholds: np.ndarray,
    excluded: np.ndarray,
) -> list[Found]:
    """Return (queries, rows, f) of what reaches a threshold (Q, J) of its query somewhere; overwrites `layers`."""
    width, found = layers[0].shape[1], []
    size = max(1, FILTER_BYTES // (4 * len(layers) * max(1, width)))
    for first in range(
        int(part[0]), int(part[-1]) + 1, size
    ):  # so few queries that they stay in the core's cache
        own = slice(first, min(first + size, int(part[-1]) + 1))
        values = fast.in_place([layer[own] for layer in layers])
        hopeful = np.zeros(values[0].shape, dtype=bool)
        for value, threshold in zip(values, thresholds[own].T):
            hopeful |= value >= threshold[:, None]
        places = np.flatnonzero(hopeful)
        places = places[~excluded[start + places % width]]
        if len(places):
            queries, columns = np.divmod(places, width)
            f = np.stack([value[queries, columns] for value in values], axis=1)
            found.append((queries + first, columns + start, f))
    return found


def champions(f: np.ndarray, there: np.ndarray, k: int) -> list[np.ndarray]:
    """Return sets of k columns, (q, k) each, that are high everywhere at once; f: (J, q, n), `there`: (q, n) bool.

    These exclude most: the best worst coordinate, the best sum, the best at each vertex.
    """
    count = np.maximum(there.sum(axis=1), 1)[:, None]
    known = np.where(there, f, 0)
    mean = known.sum(axis=2, keepdims=True) / count
    deviation = np.sqrt((np.where(there, f - mean, 0) ** 2).sum(axis=2, keepdims=True) / count)
    standard = (known - mean) / (deviation + np.float32(1e-12))
    worst, total = standard.min(axis=0), standard.sum(axis=0)
    criteria = [worst, total + worst, total, *(line + np.float32(0.3) * worst for line in standard)]
    k = min(k, f.shape[2])
    return [np.argpartition(np.where(there, -value, np.inf), k - 1, axis=1)[:, :k] for value in criteria]
