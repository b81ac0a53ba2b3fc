"""Diffusion on the neighbour graph: similarity that flows along chains of near images.

Zhou et al., Ranking on data manifolds (NIPS 2003); Iscen et al., Efficient diffusion on region manifolds
(CVPR 2017): f = (I - a S)^-1 y with S the symmetrically normalised affinities of mutual neighbours and y a
query's own affinities, solved by conjugate gradients, one query at a time, in float64 on one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from competition.errors import ConfigurationError

if TYPE_CHECKING:  # other recipes start without it
    from scipy import sparse


def affinities(similarities: np.ndarray, gamma: float) -> np.ndarray:
    """Return max(similarity, 0)^gamma (Iscen et al., section 3.2)."""
    return np.maximum(similarities, 0.0) ** gamma


def transition(
    graph: np.ndarray, scores: np.ndarray, *, neighbours: int, gamma: float = 3.0
) -> sparse.csr_matrix:
    """Return S = D^-1/2 W D^-1/2, (n, n) float64 sparse.

    graph, scores (n, >= neighbours): each image's neighbours without itself, -1 for none. W holds the
    affinity of two images that are each among the other's nearest, D its row sums; an image without such a
    neighbour has an empty row.
    """
    from scipy import sparse

    total = len(graph)
    lists, values = np.asarray(graph[:, :neighbours]), np.asarray(scores[:, :neighbours])
    known = lists >= 0
    pointers = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    directed = sparse.csr_matrix(
        (affinities(values[known], gamma), lists[known].astype(np.int64), pointers), shape=(total, total)
    )
    directed.sort_indices()
    mutual = directed.minimum(directed.T.tocsr())  # 0 where one of the two directions is missing
    mutual.eliminate_zeros()
    degrees = np.asarray(mutual.sum(axis=1)).ravel()
    scale = sparse.diags_array(np.where(degrees > 0, 1.0 / np.sqrt(np.where(degrees > 0, degrees, 1.0)), 0.0))
    return sparse.csr_matrix(scale @ mutual @ scale)


def diffused(
    smoothing: sparse.csr_matrix,
    rows: np.ndarray,
    similarities: np.ndarray,
    *,
    alpha: float = 0.99,
    gamma: float = 3.0,
    tolerance: float = 1e-6,
    iterations: int = 50,
) -> np.ndarray:
    """Return f (n,) float64, the diffused scores of one query.

    smoothing: `transition`'s S; rows, similarities: the gallery images that the query found, best first, -1
    for none; their affinities are y. Conjugate gradients from 0 until ‖residual‖ <= tolerance ‖y‖, at most
    `iterations` steps.
    """
    if not 0 <= alpha < 1:
        raise ConfigurationError(f"diffusion with alpha = {alpha}: expected at least 0 and below 1")
    start = np.zeros(smoothing.shape[0])
    known = rows >= 0
    start[rows[known]] = affinities(similarities[known], gamma)
    result = np.zeros_like(start)
    residual, direction = start.copy(), start.copy()
    size = float(np.add.reduce(residual * residual))
    enough = tolerance**2 * size
    for _ in range(iterations):
        if size <= enough or size == 0:
            break
        image = direction - alpha * (smoothing @ direction)
        step = size / float(np.add.reduce(direction * image))
        result += step * direction
        residual -= step * image
        before, size = size, float(np.add.reduce(residual * residual))
        direction = residual + size / before * direction
    return result
