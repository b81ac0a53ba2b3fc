"""A certified optimum: branch and bound over the region, ending with the best weights and a proven upper bound.

Sub-simplices are cut in two, the most promising first; `tuning.open_pairs` has the bound and where to cut.
Memory is bounded: nodes that do not fit are dropped, and their bound still counts.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.objective import PaddedCandidates
from tuning.open_pairs import Node, OpenPairs

TOLERANCE = 1e-12  # two MAPs nearer than this are equal: they are sums of few fractions
MEMORY_BYTES = 1 << 30  # of all nodes that wait
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
