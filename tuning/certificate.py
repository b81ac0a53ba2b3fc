"""A certified optimum: branch and bound over the region, ending with the best weights and a proven upper bound.

Sub-simplices are cut in two, the most promising first. Memory is bounded: nodes that do not fit are dropped, and
their bound still counts.

A pair is a relevant item and a candidate that is not relevant; over a sub-simplex the difference of their
scores is a convex sum of its values at the corners, so a rival ahead at all corners is ahead throughout. Let
c_r be the number of such rivals of relevant item r, sorted c_(1) <= c_(2) <= ...: the i-th correct hit cannot
be above place i + c_(i), so that AP@k <= sum_i i / (i + c_(i)) [i + c_(i) <= k] / min(m, k), and the hits <=
sum_i [i + c_(i) <= k] for recall@k and precision@k. What is decided over a sub-simplex is decided over its
parts, so a part looks only at the pairs its parent left open. Orders within the rounding margin count in the
bound's favour.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.candidates import SCORE_MARGIN
from tuning.objective import PaddedCandidates, mean_average_precision

TOLERANCE = 1e-12  # two MAPs nearer than this are equal: they are sums of few fractions
MEMORY_BYTES = 1 << 30  # of all nodes that wait
SMALLEST_EDGE = 1e-9  # barycentric; a shorter one is not split: what it leaves open is within rounding
EVERY = 2  # generations between splits that favour long edges
LEAST_SHARE = 0.2  # of an edge on each side of a split
OBJECTS_BYTES = 600  # Python's own, of a node


@dataclass(frozen=True)
class Node:
    """A sub-simplex.

    simplex: (J, J) float64, barycentric coordinates of its corners by rows; bound: no weights in it exceed
    this MAP@k; open: numbers of the pairs its parent left open, int32, shared with its sibling; counts:
    (n_slots,) int16, decided rivals of each relevant item; generation: splits since the whole region; hope: a bound on
    the MAP@k at its centroid.
    """

    simplex: np.ndarray
    bound: float
    open: np.ndarray
    counts: np.ndarray
    generation: int = 0
    hope: float = 1.0

    @property
    def size_bytes(self) -> int:
        """Memory it holds, half of what it shares."""
        return self.simplex.nbytes + self.counts.nbytes + self.open.nbytes // 2 + OBJECTS_BYTES


class OpenPairs:
    """The pairs of one padded over the region of vertices `corners` (J, L).

    differences: (P, J) float64, relevant less rival at each vertex, of pairs that not the whole region
    decides; slots: (P,) the place of each pair's relevant item in an array (n_queries, most relevant items of
    a query), flattened.
    """

    def __init__(self, padded: PaddedCandidates, corners: np.ndarray):
        self.padded, self.corners = padded, np.asarray(corners, dtype=np.float64)
        there = padded.rows >= 0
        hits = there & padded.relevant
        self.width = max(1, int(hits.sum(axis=1).max(initial=0)))
        counts = np.full((padded.n_queries, self.width), padded.k)  # k rivals: no item that can count
        differences, slots = [np.zeros((0, len(self.corners)))], [np.zeros(0, dtype=np.int64)]
        for query in range(padded.n_queries):
            rivals = np.flatnonzero(there[query] & ~padded.relevant[query])
            r = padded.similarities[:, query, rivals].T
            for place, item in enumerate(np.flatnonzero(hits[query])):
                s = padded.similarities[:, query, item]
                t = (s - r) @ self.corners.T
                # beaten everywhere: by the margin at all corners, or by monotone sums and an earlier row
                always = (t < -SCORE_MARGIN).all(axis=1) | ((r >= s).all(axis=1) & (rivals < item))
                never = (t >= -SCORE_MARGIN).all(axis=1)
                counts[query, place] = min(always.sum(), padded.k)
                open_ = t[~always & ~never]
                differences.append(open_)
                slots.append(np.full(len(open_), query * self.width + place))
        self.differences, self.slots = np.concatenate(differences), np.concatenate(slots)
        weight = np.ones(padded.n_queries) if padded.weight is None else padded.weight
        n, k = padded.n_relevant, padded.k
        most = {"map": np.minimum(n, k), "recall": n, "precision": k}[padded.metric]
        shares = weight / (most * weight.sum())
        self._shares, self._share_of_slot = shares, np.repeat(shares, self.width)
        hit, ahead = np.arange(1, self.width + 1)[:, None], np.arange(padded.k + 1)
        gains = hit / (hit + ahead) if padded.metric == "map" else 1.0
        self._gains = np.where(hit + ahead <= padded.k, gains, 0.0)
        self._first, self._second = np.triu_indices(len(self.corners), 1)
        whole, every = counts.ravel().astype(np.int16), np.arange(len(self.slots), dtype=np.int32)
        self.root = Node(np.eye(len(self.corners)), float(self.upper(whole)), every, whole)

    def upper(self, counts: np.ndarray) -> np.ndarray:
        """Return the bound on MAP@k where each relevant item has `counts` (..., n_slots) rivals ahead at least."""
        counts = np.minimum(counts, self.padded.k).reshape(*counts.shape[:-1], -1, self.width)
        if self.width > 1:
            counts = np.sort(counts, axis=-1)
        return self._gains[np.arange(self.width), counts].sum(axis=-1) @ self._shares

    def value(self, coordinates: np.ndarray) -> float:
        """Return the exact MAP@k at barycentric `coordinates` (J,)."""
        return mean_average_precision(self.padded, coordinates @ self.corners)

    def split(self, node: Node) -> tuple[Node, ...]:
        """Cut `node` in two where that decides most; no parts where its pairs are all decided or within rounding."""
        slots = self.slots[node.open]
        t = self.differences[node.open] @ node.simplex.T
        behind = t < -SCORE_MARGIN
        n_behind, n = behind.sum(axis=1), len(node.simplex)
        left = np.flatnonzero((n_behind > 0) & (n_behind < n) & (node.counts[slots] < self.padded.k))
        open_, slots, t, behind, n_behind = (part[left] for part in (node.open, slots, t, behind, n_behind))
        counts = node.counts[slots].astype(np.float64)
        worth = self._share_of_slot[slots] / ((counts + 1) * (counts + 2))  # one more rival's, of the bound
        edge = self._edge(node, behind, worth)
        if edge is None:
            return ()
        a, b = edge
        share = _dividing(t[:, a], t[:, b], behind[:, a] != behind[:, b], worth)
        middle_t = (1 - share) * t[:, a] + share * t[:, b]
        middle_behind, total = middle_t < -SCORE_MARGIN, t.sum(axis=1)
        rivals_ahead = (
            n_behind - behind[:, a] + middle_behind == n,
            n_behind - behind[:, b] + middle_behind == n,
            total - t[:, a] + middle_t < -n * SCORE_MARGIN,
            total - t[:, b] + middle_t < -n * SCORE_MARGIN,
        )
        decided = np.stack([np.bincount(slots[ahead], minlength=len(node.counts)) for ahead in rivals_ahead])
        decided = np.minimum(decided + node.counts, self.padded.k).astype(np.int16)
        bounds, hopes = np.split(self.upper(decided), 2)
        first, second = node.simplex.copy(), node.simplex.copy()
        first[a] = second[b] = (1 - share) * node.simplex[a] + share * node.simplex[b]
        return tuple(
            Node(simplex, min(bound, node.bound), open_, counts.copy(), node.generation + 1, hope)
            for simplex, bound, counts, hope in zip((first, second), bounds, decided, hopes)
        )

    def _edge(self, node: Node, behind: np.ndarray, worth: np.ndarray) -> tuple[int, int] | None:
        """Return the edge along which the pairs that change sign are worth most; None where no edge of length has any."""
        crossed = (behind * worth[:, None]).T @ ~behind
        crossed = (crossed + crossed.T)[self._first, self._second]
        lengths = np.linalg.norm(node.simplex[self._first] - node.simplex[self._second], axis=1)
        crossed = np.where(lengths > SMALLEST_EDGE, crossed, 0.0)
        if node.generation % EVERY == EVERY - 1:  # or slivers along one plane would keep all splits
            crossed = crossed * lengths
        best = int(crossed.argmax()) if len(crossed) else 0
        if not len(crossed) or not crossed[best] > 0:
            return None
        return int(self._first[best]), int(self._second[best])


def _dividing(t_a: np.ndarray, t_b: np.ndarray, crossing: np.ndarray, worth: np.ndarray) -> float:
    """Return the share of the edge from a to b at which as much worth changes sign before as after."""
    t_a, t_b, worth = t_a[crossing], t_b[crossing], worth[crossing]
    places = t_a / (t_a - t_b)
    order = np.argsort(places)
    sums = np.cumsum(worth[order])
    middle = int(np.searchsorted(sums, sums[-1] / 2))
    share = places[order[middle : middle + 2]].mean()  # between two crossings both are decided
    return min(max(float(share), LEAST_SHARE), 1 - LEAST_SHARE)


Entry = tuple[float, int, int, Node]  # -bound, running number, combination, node


@dataclass(frozen=True)
class Certificate:
    """The best point found, and a bound that no weights of the region exceed.

    best: its MAP@k; combination: number of the one that has `coordinates` (J,), barycentric; nodes:
    sub-simplices looked at; dropped: bound of those that memory did not hold or that only rounding decides, 0
    where there were none.
    """

    best: float
    bound: float
    combination: int
    coordinates: np.ndarray
    nodes: int
    seconds: float
    dropped: float = 0.0

    @property
    def gap(self) -> float:
        """What a better optimum could still gain: 0 where the best is proven."""
        return max(0.0, self.bound - self.best)


def certify(
    padded_lists: Sequence[PaddedCandidates],
    corners: Sequence[np.ndarray],
    seconds: float,
    *,
    known: Sequence[tuple[int, np.ndarray]] = (),
    watch: Callable[[float, float], None] | None = None,
    max_nodes: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Certificate:
    """Search the regions of one or more combinations for at most `seconds`; exact when the gap reaches 0.

    padded_lists, corners: one a combination (public queries only); known: (combination, coordinates) of good points
    to start from; watch(best, bound) is called about ten times a second; memory_bytes: of the nodes that
    wait.
    """
    begun = shown = time.perf_counter()
    pairs = [OpenPairs(padded, vertices) for padded, vertices in zip(padded_lists, corners)]
    best, at = -1.0, (0, np.empty(0))

    def look(number: int, coordinates: np.ndarray) -> None:
        nonlocal best, at
        value = pairs[number].value(coordinates)
        if value > best + TOLERANCE:
            best, at = value, (number, coordinates)

    for number, coordinates in known:
        look(number, coordinates)
    heap: list[Entry] = []
    for number, own in enumerate(pairs):
        for corner in [*own.root.simplex, own.root.simplex.mean(axis=0)]:
            look(number, corner)
        heapq.heappush(heap, (-own.root.bound, number, number, own.root))
    nodes, dropped = len(pairs), 0.0
    held_bytes = sum(entry[3].size_bytes for entry in heap)
    while heap and -heap[0][0] > best + TOLERANCE:
        now = time.perf_counter()
        if now - begun > seconds or (max_nodes is not None and nodes >= max_nodes):
            break
        if watch is not None and now - shown > 0.1:
            shown = now
            watch(best, max(-heap[0][0], dropped))
        _, _, number, node = heapq.heappop(heap)
        held_bytes -= node.size_bytes
        parts = pairs[number].split(node)
        if not parts:  # decided throughout, but for what rounding decides
            for point in [node.simplex.mean(axis=0), *node.simplex]:
                look(number, point)
            dropped = max(dropped, node.bound)
        for child in parts:
            nodes += 1
            if child.bound > best + TOLERANCE:
                if child.hope > best + TOLERANCE:
                    look(number, child.simplex.mean(axis=0))
                heapq.heappush(heap, (-child.bound, nodes, number, child))
                held_bytes += child.size_bytes
        if held_bytes > memory_bytes:  # the less promising half goes; its highest bound still counts
            heap.sort()
            half = (len(heap) + 1) // 2
            dropped = max([dropped, *(-entry[0] for entry in heap[half : half + 1])])
            del heap[half:]
            held_bytes = sum(entry[3].size_bytes for entry in heap)
    bound = float(max([best, dropped, *(-entry[0] for entry in heap[:1])]))
    bound = best if bound <= best + TOLERANCE else bound
    dropped = dropped if dropped > best + TOLERANCE else 0.0
    return Certificate(best, bound, *at, nodes, time.perf_counter() - begun, float(dropped))
