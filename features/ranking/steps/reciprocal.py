"""The step reciprocal: k-reciprocal re-ranking, sparse, for galleries of any size.

Zhong, Zheng, Cao, Li: Re-ranking person re-identification with k-reciprocal encoding (CVPR 2017). An image is encoded
by its k-reciprocal neighbours, weighted exp(-distance); the Jaccard distance between two codes, mixed with the original
distance, ranks. Distance is 1 - similarity here (half the squared distance of unit vectors); the authors' program
divides each column by its largest entry first, which needs every pair and is left out.

By default a query is one more image beside the gallery's own graph, so codes of gallery images never depend on any
query: it counts as a neighbour of a gallery image when it is at least as similar as that image's k1-th neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from competition.progress import Progress
from features.ranking.arguments import Flag, number, whole
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.search.neighbour_graph import neighbour_graph
from features.search.row_views import RowStack
from features.search.similarity import fused_score, pair_scores

if TYPE_CHECKING:  # other recipes start without it
    from scipy import sparse

ENCODED_ROWS = 512
Pairs = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (p,), rows (p,) -> their similarities (p,)


class Reciprocal(Step, frozen=True):
    """Ranks by (1 - share) Jaccard distance of k-reciprocal codes + share (1 - similarity) (Zhong et al., eq. 12).

    transductive: all queries join the graph, as in the paper. Only images that share a column with a query's code have
    a Jaccard distance below 1; all others keep the order of their similarity. So those and the k best of the others
    hold the k best of all.
    """

    tunable: ClassVar = {"k1": (5, 10, 20), "k2": (1, 3, 6), "share": (0.1, 0.3, 0.5, 0.8)}
    makes_lists: ClassVar[bool] = True
    keeps_files: ClassVar[bool] = True
    whole_gallery: ClassVar[bool] = True
    shuns_photos: ClassVar[bool] = True
    k1: Annotated[int, whole(1, 1000)] = 20
    k2: Annotated[int, whole(1, 1000)] = 6
    share: Annotated[float, number(0, 1)] = 0.3
    transductive: Flag = False

    def __call__(self, state: State) -> State:
        gallery, k, total, count = state.gallery, state.k, len(state.gallery[0]), len(state.queries[0])
        codes = self._codes(state)
        depth = min(total, k + max(self.k1, 4 * self.k1 * self.k2))
        ranks, scores = state.lists(depth)
        found, short = [], []
        for query in range(count):
            own = [q[query] for q in state.queries]

            def near_to(rows: np.ndarray) -> np.ndarray:
                return fused_score(own, [g[rows] for g in gallery], state.weights)

            if self.transductive:
                code = codes.averaged[total + query]
                columns, values = code.indices, code.data
            else:
                columns, values = query_code(codes, ranks[query], scores[query], near_to)
            sharing, jaccard = jaccard_distances(codes, columns, values)
            sharing, jaccard = sharing[sharing < total], jaccard[sharing < total]
            near = near_to(sharing)
            found.append((sharing, near, mixed_scores(jaccard, near, self.share)))
            others = np.sum(~np.isin(ranks[query], sharing) & (ranks[query] >= 0))
            if others < k and (ranks[query] >= 0).all() and depth < total:
                short.append(query)
        lists = dict(enumerate(zip(ranks, scores)))
        if short:
            depth = min(total, k + max(len(found[query][0]) for query in short))
            asked = replace(state, queries=tuple(q[short] for q in state.queries), ranks=None)
            lists |= zip(short, zip(*asked.lists(depth)))
        new_ranks, new_scores = np.full((count, k), -1), np.full((count, k), -np.inf)
        for query, (sharing, near, values) in enumerate(found):
            rows, similarities = lists[query]
            other = ~np.isin(rows, sharing) & (rows >= 0)
            rows, near = np.concatenate([sharing, rows[other]]), np.concatenate([near, similarities[other]])
            far = mixed_scores(np.ones(np.sum(other)), similarities[other], self.share)
            values = np.concatenate([values, far])
            order = np.lexsort((rows, -near, -values))[:k]  # with share = 0 many values are equal
            new_ranks[query, : len(order)], new_scores[query, : len(order)] = rows[order], values[order]
        return replace(state, ranks=new_ranks, scores=new_scores)

    def _codes(self, state: State) -> Codes:
        """The codes of the gallery; transductive: of gallery and queries together, whose numbers come last."""
        nodes: Sequence = state.gallery
        excluded, progress = state.excluded, state.progress
        if self.transductive:
            nodes = [RowStack([g, q]) for g, q in zip(state.gallery, state.queries)]
            unreadable = np.all([~np.any(q, axis=1) for q in state.queries], axis=0)
            excluded = np.concatenate([excluded, unreadable])
            graph = neighbour_graph(nodes, state.weights, self.k1, excluded=excluded, progress=progress)
        else:
            graph = state.graph(self.k1)
        return learn_codes(
            *graph,
            lambda left, right: pair_scores(nodes, state.weights, left, right),
            self.k1,
            self.k2,
            excluded=excluded,
            progress=progress,
        )


def reciprocal_mask(graph: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (lists (m, k + 1) of rows themselves and their k nearest, mask (m, k + 1): mutual ones).

    graph (N, >= k): each image's neighbours without itself, -1 for none; rows (m,). j in the list of i is
    mutual when i is in the list of j.
    """
    lists = np.concatenate([rows[:, None], graph[rows, :k]], axis=1).astype(np.int64)
    back = np.concatenate([np.maximum(lists, 0)[:, :, None], graph[np.maximum(lists, 0), :k]], axis=2)
    return lists, (back == rows[:, None, None]).any(axis=2) & (lists >= 0)


def expanded_sets(graph: np.ndarray, lists: np.ndarray, mask: np.ndarray, k1: int) -> list[np.ndarray]:
    """Return R*(i, k1) (eq. 3) for each list, sorted rows.

    These are the mutual neighbours, and those of each mutual neighbour c that share more than two thirds of R(c, k1 / 2)
    with them.
    """
    half = int(np.around(k1 / 2))
    sets = []
    for own, mutual in zip(lists, mask):
        members = own[mutual]
        nodes = members[members < len(graph)]
        near, near_mask = reciprocal_mask(graph, nodes, half)
        shared = (near[:, :, None] == members[None, None, :]).any(axis=2) & near_mask
        added = shared.sum(axis=1) > 2 / 3 * near_mask.sum(axis=1)
        sets.append(np.unique(np.concatenate([members, near[added][near_mask[added]]])))
    return sets


@dataclass(frozen=True)
class Codes:
    """What k-reciprocal re-ranking keeps of N images: float64 sparse rows of sum 1, empty for unreadable images."""

    graph: np.ndarray  # (N, >= k1) neighbours without the image itself
    last: np.ndarray  # (N,) similarity of each image's k1-th neighbour, -inf where it has fewer
    single: sparse.csr_matrix  # (N, N), eq. 7
    averaged: sparse.csr_matrix  # (N, N), over the k2 nearest, eq. 11
    inverted: sparse.csr_matrix  # its transpose: which images use a column
    k1: int
    k2: int


def learn_codes(
    graph: np.ndarray,
    scores: np.ndarray,
    pairs: Pairs,
    k1: int = 20,
    k2: int = 6,
    *,
    excluded: np.ndarray | None = None,
    progress: bool = False,
) -> Codes:
    """Encode every image of a neighbour graph (N, >= k1) with its scores.

    pairs(i (p,), j (p,)) -> similarities. Holds about 12 bytes for each of N * k1 * k2 entries or fewer: 1 GB for
    520,000 images at 20 and 6.
    """
    from scipy import sparse

    graph, total = np.asarray(graph)[:, :k1], len(graph)
    columns, values, lengths = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
    starts = range(0, total, ENCODED_ROWS)
    for start in Progress(starts, desc="k-reciprocal codes", unit="block", shown=progress):
        rows = np.arange(start, min(start + ENCODED_ROWS, total))
        sets = expanded_sets(graph, *reciprocal_mask(graph, rows, k1), k1)
        if excluded is not None:
            sets = [found[:0] if excluded[row] else found for row, found in zip(rows, sets)]
        sizes = np.array([len(found) for found in sets])
        owner, joined = np.repeat(rows, sizes), np.concatenate(sets)
        weights = np.exp(pairs(owner, joined) - 1.0)
        sums = np.bincount(owner - start, weights, minlength=len(rows))
        columns.append(joined)
        values.append(weights / sums[owner - start])
        lengths.append(sizes)
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    entries = np.concatenate(values), np.concatenate(columns), pointers
    single = sparse.csr_matrix(entries, shape=(total, total))
    averaged = neighbour_average(graph, k2) @ single
    averaged.sort_indices()
    last = np.where(graph[:, k1 - 1] >= 0, np.asarray(scores)[:, k1 - 1], -np.inf)
    return Codes(graph, last, single, averaged, averaged.T.tocsr(), k1, k2)


def neighbour_average(graph: np.ndarray, k2: int) -> sparse.csr_matrix:
    """Return the (N, N) matrix that averages rows over each image and its k2 - 1 nearest (fewer: over those)."""
    from scipy import sparse

    lists = np.concatenate([np.arange(len(graph))[:, None], graph[:, : k2 - 1]], axis=1)
    known = lists >= 0
    counts = known.sum(axis=1)
    entries = np.repeat(1.0 / counts, counts), lists[known], np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix(entries, shape=(len(graph),) * 2)


def query_code(
    codes: Codes, rows: np.ndarray, similarities: np.ndarray, pairs: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of one query beside the gallery: its columns (gallery rows, rising) and values.

    rows, similarities: the query's k1 nearest gallery images, best first, -1 for none; pairs(rows) -> its
    similarities. The query's own column, which no gallery image uses, is counted in the sum of 1 and left out
    here.
    """
    total = len(codes.graph)
    known = rows[: codes.k1] >= 0
    rows, similarities = rows[: codes.k1][known], similarities[: codes.k1][known]
    mutual = np.concatenate([[True], similarities >= codes.last[rows]])
    (members,) = expanded_sets(codes.graph, np.concatenate([[total], rows])[None], mutual[None], codes.k1)
    members = members[members < total]
    weights = np.exp(pairs(members) - 1.0)
    near = codes.single[rows[: codes.k2 - 1]]
    code = np.zeros(total)
    code[members] = weights / (weights.sum() + 1.0)
    np.add.at(code, near.indices, near.data)
    code /= 1 + near.shape[0]
    columns = np.flatnonzero(code)
    return columns, code[columns]


def jaccard_distances(codes: Codes, columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the images whose code shares a column with this one (rising rows) and their Jaccard distances (eq. 10).

    Every other image has distance 1.
    """
    using = codes.inverted[columns]
    smaller = np.minimum(using.data, np.repeat(values, np.diff(using.indptr)))
    rows, position = np.unique(using.indices, return_inverse=True)
    shared = np.bincount(position, smaller, minlength=len(rows))
    return rows.astype(np.int64), 1.0 - shared / (2.0 - shared)


def mixed_scores(jaccard: np.ndarray, similarities: np.ndarray, share: float) -> np.ndarray:
    """Return the score -( (1 - share) Jaccard + share (1 - similarity) ) (eq. 12), larger is nearer."""
    return -((1.0 - share) * jaccard + share * (1.0 - similarities))
