"""The step expand: a query joined with the gallery images it found, then searched again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from features.ranking.arguments import number, one_of, whole
from features.ranking.state import State
from features.ranking.steps.step import LISTED, Step
from features.search.row_views import normalised


def _decaying(similarities: np.ndarray, alpha: float) -> np.ndarray:
    count = similarities.shape[1]
    return np.broadcast_to((count - np.arange(count)) / (count + 1), similarities.shape)


# what similarities (Q, n) and alpha say of each neighbour's weight, the query's own being 1
WEIGHTINGS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    # 1 for every neighbour (AQE; Chum et al., ICCV 2007; both papers: mean of the query and its top n)
    "average": lambda similarities, alpha: np.ones(similarities.shape),
    # (n + 1 - i) / (n + 1) for the i-th of n neighbours, the query being i = 0 (AQEwD; Gordo et al., 2017)
    "weighted": _decaying,
    # max(similarity, 0)^alpha (αQE; Radenović et al., TPAMI 2018, section 3.4)
    "alpha": lambda similarities, alpha: np.maximum(similarities, 0.0) ** alpha,
}


class Expand(Step, frozen=True):
    """Query expansion: q -> L2(q + Σ_i w_i x_i), x_i the i-th gallery image found, `rounds` times; w by `kind`."""

    tunable: ClassVar = {
        "neighbours": (0, 1, 2, 3, 5, 10),
        "kind": ("average", "weighted", "alpha"),
        "alpha": (1.0, 3.0),
    }
    shuns_photos: ClassVar[bool] = True
    neighbours: Annotated[int, whole(0, LISTED)]
    kind: Annotated[str, one_of("weighting", WEIGHTINGS)] = "average"
    alpha: Annotated[float, number(0, 100)] = 3.0
    rounds: Annotated[int, whole(1, 100)] = 1

    def __call__(self, state: State) -> State:
        joining: dict[str, Any] = dict(neighbours=self.neighbours, kind=self.kind, alpha=self.alpha)
        for _ in range(self.rounds):
            lists = state.lists(max(self.neighbours, 1))
            state = state.changed(queries=tuple(expand(state.queries, state.gallery, *lists, **joining)))
        return state


def neighbour_weights(ranks: np.ndarray, similarities: np.ndarray, kind: str, alpha: float) -> np.ndarray:
    """Return the weights (Q, n) float64 of the neighbours in ranks (Q, n), 0 where a rank is -1; the query's own is 1.

    similarities (Q, n): fused scores, 1 being equality.
    """
    known = np.where(ranks >= 0, similarities, 0.0)
    return np.where(ranks >= 0, WEIGHTINGS[kind](known, alpha), 0.0)


def expanded(rows: np.ndarray, neighbours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return L2(row + Σ_i w_i neighbour_i) for each row, float32 (m, D).

    rows (m, D); neighbours (m, n, D); weights (m, n). Summed in float64 in the neighbours' order. A row that
    is zero (an unreadable image) stays zero: what it found means nothing.
    """
    total = np.array(rows, dtype=np.float64, order="C")
    for place in range(weights.shape[1]):
        total += weights[:, place, None] * neighbours[:, place].astype(np.float64)
    total[~np.any(rows, axis=1)] = 0.0
    return normalised(total).astype(np.float32)


def expand(
    rows: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    ranks: np.ndarray,
    scores: np.ndarray,
    *,
    neighbours: int,
    kind: str = "average",
    alpha: float = 3.0,
) -> list[np.ndarray]:
    """Return the expanded rows, L arrays (Q, D_l) float32: every component joined with the same neighbours.

    rows: L arrays (Q, D_l); gallery: L arrays (n, D_l); ranks (Q, >= neighbours) gallery rows of each row's
    list, best first, -1 for missing; scores beside them. Fewer gallery rows than neighbours: those there are.
    """
    ranks, scores = ranks[:, :neighbours], scores[:, :neighbours]
    weights = neighbour_weights(ranks, scores, kind, alpha)
    # a memmap's rows are read once, in order
    used, position = np.unique(np.maximum(ranks, 0), return_inverse=True)
    position = position.reshape(ranks.shape)
    return [
        expanded(np.asarray(r), np.asarray(g[used])[position], weights)
        for r, g in zip(rows, gallery, strict=True)
    ]
