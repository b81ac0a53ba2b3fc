"""What is still in the running while the gallery streams past, by fast approximate coordinates.

Nothing here is exact: an item goes only when k others lie above it by twice the slack, so both may err.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from competition.errors import Top7Error

WAITING = 64  # items a query, on average, that wait before thresholds are sharpened
FILTER_BYTES = 2 << 20  # similarities of the queries filtered at once: what a core's caches hold

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # queries (m,), rows (m,), f (J, m)
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

    def in_place(self, layers: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Turn scaled similarities, one float32 array a component, into f_j, one array a vertex, and return them."""
        for chain in self.members:
            for deeper, position in zip(chain[:0:-1], chain[-2::-1]):
                np.add(layers[position], layers[deeper], out=layers[position])
        return layers


class Running:
    """The running candidates of all queries by fast coordinates f, and thresholds (Q, J) that keep others out.

    kept: rows (n,) and f (J, n) of each query; waiting: what came since the last sharpening; spread: a map over queries,
    on threads; settle(query, rows): those that the exact rule leaves.
    """

    def __init__(
        self,
        n_queries: int,
        slack: np.ndarray,
        k: int,
        limit: int,
        settle: Settle,
        spread: Callable[..., Any],
    ):
        self.twice = 2 * slack[:, None]
        self.k, self.limit, self.settle, self.spread = k, limit, settle, spread
        self.thresholds = np.full((n_queries, len(slack)), -np.inf, dtype=np.float32)
        self.kept = [(np.empty(0, np.int64), np.empty((len(slack), 0), np.float32))] * n_queries
        self.waiting: list[Found] = []

    def add(self, found: Iterable[Found]) -> None:
        """Let what was found wait, and sharpen where that is worth it."""
        self.waiting += found
        waiting = sum(len(rows) for _, rows, _ in self.waiting)
        if waiting > max(WAITING * len(self.kept), 2 * sum(len(rows) for rows, _ in self.kept)):
            self.sharpen()

    def sharpen(self) -> None:
        """Drop of what is kept and waits all that k others exclude for certain, and sharpen the thresholds."""
        if not self.waiting:
            return
        queries, rows, f = (np.concatenate(parts, axis=-1) for parts in zip(*self.waiting))
        order = np.argsort(queries, kind="stable")
        own = np.split(order, np.searchsorted(queries[order], np.arange(1, len(self.kept))))
        self.waiting = []

        def sharpened(query: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            before, before_f = self.kept[query]
            all_rows = np.append(before, rows[own[query]])
            all_f = np.concatenate([before_f, f[:, own[query]]], axis=1)
            threshold, left, rivals = self._sharpest(all_f)
            lower = all_f[:, left] + self.twice.astype(np.float32) * (1 + 2.0**-20)
            ahead = np.ones((len(rivals), lower.shape[1]), dtype=bool)
            for values, low in zip(all_f[:, rivals], lower):
                ahead &= values[:, None] > low
            left[left] = ahead.sum(axis=0) < self.k
            return threshold, all_rows[left], all_f[:, left]

        found = list(self.spread(sharpened, range(len(self.kept))))
        self.thresholds = np.stack([threshold for threshold, _, _ in found])
        self.kept = [(left, values) for _, left, values in found]
        usual = np.median([len(left) for left, _ in self.kept])
        if usual > self.limit:  # a few queries may hold ties; settling most takes minutes for nothing
            raise PrunesBadly(
                f"about {usual:,.0f} candidates for one query after part of the gallery, more than {self.limit:,}"
            )
        for query, (left, values) in enumerate(self.kept):
            if len(left) > self.limit:  # ties and near ties: the exact rule decides
                exact, _ = self.settle(query, left)
                if len(exact) > self.limit:
                    raise PrunesBadly(f"{len(exact)} candidates for one query after part of the gallery")
                keep = np.isin(left, exact)
                self.kept[query] = left[keep], values[:, keep]

    def _sharpest(self, f: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return of items f (J, n) the threshold (J,) that fewest reach, which reach all (n,), and the champions.

        A threshold is the least f of k champions less twice the slack: what reaches it nowhere is out.
        """
        if f.shape[1] < self.k:
            none = np.full(len(f), -np.inf, np.float32)
            return none, np.ones(f.shape[1], dtype=bool), np.empty(0, np.int64)
        best = champions(f, self.k)
        thresholds = (f[:, best].min(axis=2) - self.twice).astype(np.float32)
        reached = np.zeros((len(best), f.shape[1]), dtype=bool)
        for values, each in zip(f, thresholds):
            reached |= values >= each[:, None]
        return thresholds[:, reached.sum(axis=1).argmin()], np.logical_and.reduce(reached), np.unique(best)


def above(
    start: int,
    layers: Sequence[np.ndarray],
    fast: FastCoordinates,
    thresholds: np.ndarray,
    excluded: np.ndarray,
    part: np.ndarray,
) -> list[Found]:
    """Return what of a block reaches a threshold (Q, J) of its query, one of `part`, somewhere; overwrites `layers`."""
    width, found, stop = layers[0].shape[1], [], int(part[-1]) + 1
    size = max(1, FILTER_BYTES // (4 * len(layers) * max(1, width)))
    for first in range(int(part[0]), stop, size):  # so few queries that they stay in the core's cache
        own = slice(first, min(first + size, stop))
        values = fast.in_place([layer[own] for layer in layers])
        hopeful = np.zeros(values[0].shape, dtype=bool)
        for value, threshold in zip(values, thresholds[own].T):
            hopeful |= value >= threshold[:, None]
        places = np.flatnonzero(hopeful)
        places = places[~excluded[start + places % width]]
        if len(places):
            queries, columns = np.divmod(places, width)
            found.append((queries + first, columns + start, np.stack([v[queries, columns] for v in values])))
    return found


def champions(f: np.ndarray, k: int) -> np.ndarray:
    """Return sets (G, k) of the n >= k columns of f (J, n) that are high everywhere at once, so that they exclude most.

    These are the best by the worst coordinate, by the sum, and at each vertex.
    """
    standard = (f - f.mean(axis=1, keepdims=True)) / (f.std(axis=1, keepdims=True) + f.dtype.type(1e-12))
    worst, total = standard.min(axis=0), standard.sum(axis=0)
    criteria = np.array([worst, total + worst, total, *(standard + f.dtype.type(0.3) * worst)])
    return np.argpartition(-criteria, k - 1, axis=1)[:, :k]
