"""The step diffuse: similarity that flows along chains of near images on the gallery's neighbour graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from threadpoolctl import threadpool_limits

from features.ranking.arguments import number, whole
from features.ranking.state import State
from features.ranking.steps.step import LISTED, Step
from features.search.similarity import best_first

if TYPE_CHECKING:  # other recipes start without it
    from scipy import sparse


class Diffuse(Step, frozen=True):
    """f = (I - a S)^-1 y, S the normalised affinities of mutual neighbours, y a query's own, by conjugate gradients.

    Images that it reaches come by their diffused score, ties to the lower row, then the others in the order of the
    plain list, with score 0. Zhou et al., Ranking on data manifolds (NIPS 2003); Iscen et al., Efficient diffusion on
    region manifolds (CVPR 2017), eq. 4 to 9.
    """

    tunable: ClassVar = {
        "neighbours": (5, 10, 50),
        "query_neighbours": (3, 7, 10),
        "alpha": (0.5, 0.9, 0.99),
        "gamma": (1.0, 3.0),
    }
    makes_lists: ClassVar[bool] = True
    keeps_files: ClassVar[bool] = True
    whole_gallery: ClassVar[bool] = True
    shuns_photos: ClassVar[bool] = True
    neighbours: Annotated[int, whole(1, LISTED)] = 50
    query_neighbours: Annotated[int, whole(1, LISTED)] = 10
    alpha: Annotated[float, Meta(ge=0, lt=1, description="a number >= 0 and below 1")] = 0.99
    gamma: Annotated[float, number(0, 100)] = 3.0
    iterations: Annotated[int, whole(1)] = 50

    def __call__(self, state: State) -> State:
        k, size = state.k, self.query_neighbours
        smoothing = transition(*state.graph(self.neighbours), neighbours=self.neighbours, gamma=self.gamma)
        solving: dict[str, Any] = dict(alpha=self.alpha, gamma=self.gamma, iterations=self.iterations)
        ranks, scores = state.lists(max(k, size))
        new_ranks, new_scores = np.full((len(ranks), k), -1), np.full((len(ranks), k), -np.inf)
        for query, (row, similarity) in enumerate(zip(ranks, scores)):
            flow = diffused(smoothing, row[:size], similarity[:size], **solving)
            reached = np.flatnonzero(flow > 0)
            reached = reached[best_first(flow[reached], reached, k)]
            rows = np.concatenate([reached, row[(row >= 0) & ~np.isin(row, reached)]])[:k]
            new_ranks[query, : len(rows)], new_scores[query, : len(rows)] = rows, np.maximum(flow[rows], 0.0)
        return replace(state, ranks=new_ranks, scores=new_scores)


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

    smoothing: `transition`'s S; rows, similarities: the gallery images that the query found, best first, -1 for none;
    their affinities are y. Until ‖residual‖ <= tolerance ‖y‖, at most `iterations` steps.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    start, known = np.zeros(smoothing.shape[0]), rows >= 0
    start[rows[known]] = affinities(similarities[known], gamma)
    system = LinearOperator(smoothing.shape, matvec=lambda f: f - alpha * (smoothing @ f), dtype=np.float64)
    with threadpool_limits(1):  # the bits of a product may depend on the threads
        return cg(system, start, rtol=tolerance, atol=0.0, maxiter=iterations)[0]
