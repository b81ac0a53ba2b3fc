"""Database-side augmentation: every gallery image joined with its own nearest gallery images, a block at a
time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.ranking.expansion import expand


def augmented_rows(
    gallery: Sequence[np.ndarray],
    start: int,
    stop: int,
    graph_rows: np.ndarray,
    graph_scores: np.ndarray,
    *,
    neighbours: int,
    kind: str = "average",
    alpha: float = 3.0,
) -> list[np.ndarray]:
    """Return gallery rows start to stop - 1 after augmentation, L arrays (stop - start, D_l) float32,
    L2-normalised.

    gallery: L arrays or memmaps (n, D_l), untouched; graph_rows and graph_scores (n, >= neighbours): each
    image's neighbours without itself, as `features.ranking.neighbours` finds them (Turcot and Lowe 2009;
    Arandjelović and Zisserman 2012). Every image is joined with its own neighbours, unlike a published script
    that added one fixed row to all. Zero rows stay zero.
    """
    return expand(
        [part[start:stop] for part in gallery],
        gallery,
        np.asarray(graph_rows[start:stop]),
        np.asarray(graph_scores[start:stop]),
        neighbours=neighbours,
        kind=kind,
        alpha=alpha,
    )
