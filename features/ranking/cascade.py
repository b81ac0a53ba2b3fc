"""A cascade of rankings, each with its own weights: many kept cheaply, few ranked with care (WISLAB, 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from competition.errors import ConfigurationError
from features.search import search
from features.similarity import best_first, fused_score


def cascade(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    stages: Sequence[tuple[Sequence[float], int]],
    *,
    excluded: np.ndarray | None = None,
    norm_bounds: Sequence[float] | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64 of the last stage.

    stages: (weights (L,), number kept) one after the other; the first searches the whole gallery exactly,
    each later one ranks by its own canonical score what the stage before kept, ties to the lower row.
    Missing: -1, -inf.
    """
    if not stages:
        raise ConfigurationError("a cascade of no stages: expected at least one")
    kept = [keep for _, keep in stages]
    if any(later > earlier for earlier, later in zip(kept, kept[1:])):
        raise ConfigurationError(f"a cascade that keeps {kept}: no stage can keep more than the one before")
    weights, keep = stages[0]
    ranks, scores = search(
        queries, gallery, weights, keep, excluded=excluded, norm_bounds=norm_bounds, progress=progress
    )
    for weights, keep in stages[1:]:
        ranks, scores = rerank(queries, gallery, np.asarray(weights, dtype=np.float64), ranks, keep)
    return ranks, scores


def rerank(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    ranks: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of each list in ranks (Q, any) by the canonical score with these weights."""
    new_ranks, new_scores = np.full((len(ranks), k), -1, dtype=np.int64), np.full((len(ranks), k), -np.inf)
    for query, row in enumerate(ranks):
        rows = np.sort(row[row >= 0])
        scores = fused_score([q[query] for q in queries], [g[rows] for g in gallery], weights)
        order = best_first(scores, rows, k)
        new_ranks[query, : len(order)], new_scores[query, : len(order)] = rows[order], scores[order]
    return new_ranks, new_scores
