"""AP@k by ranking the whole gallery, for benchmarks to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from competition.metrics import query_figures
from features.dumps import Dump
from features.ranked_lists import rank_dumps


def full_precisions(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: np.ndarray,
    relevant: Sequence[np.ndarray],
    k: int,
) -> np.ndarray:
    """Return AP@k of every query, (Q,) float64; weights: one a component."""
    return query_figures(rank_dumps(queries, gallery, weights, (), k)[0], relevant, k)
