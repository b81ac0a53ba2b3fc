"""A certified optimum: branch and bound over the region, ending with the best weights and a proven upper bound.

Over a sub-simplex of the region every score is a convex sum of its scores at the sub-simplex's corners, so a
non-relevant item that beats a relevant one at all corners beats it throughout. Let c_r be the number of such items
for relevant item r, sorted c_(1) <= c_(2) <= ...: the i-th correct hit cannot stand above place i + c_(i), whence
AP@k <= sum_i i / (i + c_(i)) [i + c_(i) <= k] / min(m, k). Orders within the rounding margin count in the bound's
favour. Sub-simplices are halved at their longest edge, the most promising first.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.candidates import SCORE_MARGIN
from tuning.objective import Scene, mean_average_precision

TOLERANCE = 1e-12  # two MAPs nearer than this are equal: they are sums of few fractions


@dataclass(frozen=True)
class Certificate:
    """best: MAP@k reached; bound: no weights of the region exceed it; combination: number of the one that has
    `coordinates` (J,), barycentric; nodes: sub-simplices looked at; open_nodes: those still above the best."""

    best: float
    bound: float
    combination: int
    coordinates: np.ndarray
    nodes: int
    open_nodes: int
    seconds: float

    @property
    def gap(self) -> float:
        """What a better optimum could still gain: 0 where the best is proven."""
        return max(0.0, self.bound - self.best)


class _Bound:
    """Upper bounds of one scene over sub-simplices of its region."""

    def __init__(self, scene: Scene, corners: np.ndarray):
        self.scene, self.corners = scene, np.asarray(corners, dtype=np.float64)
        similarities = np.moveaxis(scene.similarities, 0, -1)
        differences, items, fixed, self.queries = [], [], [], []
        for query in range(scene.n_queries):
            there = scene.rows[query] >= 0
            rivals = np.flatnonzero(there & ~scene.relevant[query])
            for item in np.flatnonzero(there & scene.relevant[query]):
                s, r = similarities[query, item], similarities[query, rivals]
                t = (s - r) @ self.corners.T
                # beaten everywhere: by the margin at all corners, or by monotone sums and an earlier row
                always = (t < -SCORE_MARGIN).all(axis=1) | ((r >= s).all(axis=1) & (rivals < item))
                never = (t >= -SCORE_MARGIN).all(axis=1) & ~always
                open_ = ~always & ~never
                differences.append(t[open_])
                items.append(np.full(int(open_.sum()), len(fixed)))
                fixed.append(int(always.sum()))
                self.queries.append(query)
        self.differences = np.concatenate(differences) if differences else np.zeros((0, len(self.corners)))
        self.items = np.concatenate(items).astype(np.int64) if items else np.zeros(0, dtype=np.int64)
        self.fixed = np.array(fixed, dtype=np.int64)
        self.queries = np.array(self.queries, dtype=np.int64)

    def upper(self, simplex: np.ndarray) -> float:
        """Return the bound on MAP@k over `simplex`, (J, J) float64: barycentric coordinates of its corners by rows."""
        beaten = ((self.differences @ simplex.T) < -SCORE_MARGIN).all(axis=1)
        counts = self.fixed + np.bincount(self.items[beaten], minlength=len(self.fixed))
        order = np.lexsort((counts, self.queries))
        queries, counts = self.queries[order], counts[order]
        first = np.searchsorted(queries, queries)
        place = np.arange(len(queries)) - first + 1
        position = place + counts
        gains = np.where(position <= self.scene.k, place / position, 0.0)
        per_query = np.bincount(queries, weights=gains, minlength=self.scene.n_queries)
        return float((per_query / np.minimum(self.scene.n_relevant, self.scene.k)).mean())

    def value(self, coordinates: np.ndarray) -> float:
        """Return the exact MAP@k at barycentric `coordinates` (J,)."""
        return mean_average_precision(self.scene, coordinates @ self.corners)


def certify(scenes: Sequence[Scene], corners: Sequence[np.ndarray], seconds: float, *,
            known: Sequence[tuple[int, np.ndarray]] = (), watch: Callable[[float, float], None] | None = None,
            max_nodes: int | None = None) -> Certificate:
    """Search the regions of one or more combinations for at most `seconds`; exact when the gap reaches 0.

    scenes, corners: one a combination (public queries only); known: (combination, coordinates) of good points to
    start from; watch(best, bound) is called about ten times a second.
    """
    begun = time.perf_counter()
    bounds = [_Bound(scene, vertices) for scene, vertices in zip(scenes, corners)]
    best, where = -1.0, (0, np.full(len(corners[0]), 1.0 / len(corners[0])))

    def look(number: int, coordinates: np.ndarray) -> None:
        nonlocal best, where
        value = bounds[number].value(coordinates)
        if value > best + TOLERANCE:
            best, where = value, (number, coordinates)

    for number, coordinates in known:
        look(number, np.asarray(coordinates, dtype=np.float64))
    heap: list[tuple[float, int, int, np.ndarray]] = []
    nodes = 0
    for number, vertices in enumerate(corners):
        simplex = np.eye(len(vertices))
        for corner in [*simplex, simplex.mean(axis=0)]:
            look(number, corner)
        heapq.heappush(heap, (-bounds[number].upper(simplex), nodes, number, simplex))
        nodes += 1
    told = begun
    while heap and -heap[0][0] > best + TOLERANCE:
        now = time.perf_counter()
        if now - begun > seconds or (max_nodes is not None and nodes >= max_nodes):
            break
        if watch is not None and now - told > 0.1:
            told = now
            watch(best, -heap[0][0])
        parent_bound, _, number, simplex = heapq.heappop(heap)
        for child in halves(simplex):
            bound = min(bounds[number].upper(child), -parent_bound)
            nodes += 1
            if bound > best + TOLERANCE:
                look(number, child.mean(axis=0))
                heapq.heappush(heap, (-bound, nodes, number, child))
    bound = max(best, -heap[0][0]) if heap else best
    bound = best if bound <= best + TOLERANCE else bound
    still_open = sum(-entry[0] > best + TOLERANCE for entry in heap)
    return Certificate(best, bound, where[0], where[1], nodes, still_open, time.perf_counter() - begun)


def halves(simplex: np.ndarray) -> list[np.ndarray]:
    """Split a simplex (rows are its corners) at the middle of its longest edge; none for a single point."""
    distances = np.linalg.norm(simplex[:, None] - simplex[None], axis=-1)
    a, b = np.unravel_index(distances.argmax(), distances.shape)
    if distances[a, b] < 1e-12:
        return []
    middle = (simplex[a] + simplex[b]) / 2
    first, second = simplex.copy(), simplex.copy()
    first[a], second[b] = middle, middle
    return [first, second]
