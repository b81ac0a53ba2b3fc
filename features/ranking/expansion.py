"""Query expansion: a query joined with the gallery images it found, then searched again; functions of arrays
only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from competition.errors import ConfigurationError, Top7Error, nearest
from features.ranking.views import normalised


def average_weights(similarities: np.ndarray, alpha: float) -> np.ndarray:
    """1 for every neighbour (AQE; Chum et al., ICCV 2007; both papers: mean of the query and its top n)."""
    return np.ones(similarities.shape)


def decaying_weights(similarities: np.ndarray, alpha: float) -> np.ndarray:
    """(n + 1 - i) / (n + 1) for the i-th of n neighbours, the query itself being i = 0 (AQEwD; Gordo et al.,
    2017).
    """
    count = similarities.shape[1]
    return np.broadcast_to((count - np.arange(count)) / (count + 1), similarities.shape)


def alpha_weights(similarities: np.ndarray, alpha: float) -> np.ndarray:
    """max(similarity, 0)^alpha (αQE; Radenović et al., TPAMI 2018, section 3.4)."""
    return np.maximum(similarities, 0.0) ** alpha


WEIGHTINGS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "average": average_weights,
    "weighted": decaying_weights,
    "alpha": alpha_weights,
}


def neighbour_weights(ranks: np.ndarray, similarities: np.ndarray, kind: str, alpha: float) -> np.ndarray:
    """Return the weights (Q, n) float64 of the neighbours in ranks (Q, n); 0 where a rank is -1, the query's
    own is 1.

    similarities (Q, n): fused scores, 1 being equality. Raises ConfigurationError for an unknown kind.
    """
    if kind not in WEIGHTINGS:
        raise ConfigurationError(f"unknown weighting {kind!r} of neighbours: {nearest(kind, WEIGHTINGS)}")
    if not np.isfinite(alpha) or alpha < 0:
        raise ConfigurationError(f"alpha = {alpha}: expected a number of at least 0")
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
    if neighbours < 0:
        raise ConfigurationError(f"{neighbours} neighbours to expand with: expected 0 or more")
    if len(ranks) != len(rows[0]) or ranks.shape != scores.shape:
        raise Top7Error(
            f"ranks of shape {ranks.shape} and scores of shape {scores.shape} for {len(rows[0])} rows"
        )
    ranks, scores = ranks[:, :neighbours], scores[:, :neighbours]
    weights = neighbour_weights(ranks, scores, kind, alpha)
    safe = np.maximum(ranks, 0)
    used, position = np.unique(safe, return_inverse=True)  # rows of a memmap are read once, in order
    position = position.reshape(safe.shape)
    if not ranks.size:
        return [expanded(np.asarray(r), np.empty((len(r), 0, r.shape[1])), weights) for r in rows]
    return [
        expanded(np.asarray(r), np.asarray(g[used])[position], weights)
        for r, g in zip(rows, gallery, strict=True)
    ]
