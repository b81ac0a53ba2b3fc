"""Last steps of a recipe that re-rank on the gallery's neighbour graph: exact over the whole gallery, from
shortlists proven sufficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from features.ranking.diffusion import diffused, transition
from features.ranking.neighbours import neighbour_graph
from features.ranking.reciprocal import Codes, jaccard_distances, learn_codes, mixed, query_code
from features.ranking.state import State
from features.ranking.views import RowStack
from features.similarity import best_first, fuse, fused_score

_PAIRS = 2048  # pairs of rows compared at once


def pair_scores(
    gallery: Sequence[np.ndarray], weights: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Return the canonical scores (p,) float64 of rows left (p,) with rows right (p,) of one gallery."""
    result = np.empty(len(left))
    for start in range(0, len(left), _PAIRS):
        a, b = left[start : start + _PAIRS], right[start : start + _PAIRS]
        used, position = np.unique(np.concatenate([a, b]), return_inverse=True)
        similarities = []
        for part, weight in zip(gallery, weights):
            if weight == 0:
                similarities.append(np.zeros(len(a)))
                continue
            rows = np.asarray(part[used], dtype=np.float64)
            products = rows[position[: len(a)]] * rows[position[len(a) :]]
            similarities.append(np.add.reduce(products, axis=-1))
        result[start : start + len(a)] = fuse(similarities, weights)
    return result


def reciprocal(
    state: State, *, k1: int = 20, k2: int = 6, share: float = 0.3, transductive: bool = False
) -> State:
    """k-reciprocal re-ranking, see `features.ranking.reciprocal`; share: of the original distance.

    Only images that share a column with a query's code have a Jaccard distance below 1; all others keep the
    order of their similarity. So those and the k best of the others hold the k best of all.
    """
    queries, gallery, weights, k = state.queries, state.gallery, state.weights, state.k
    total, count = len(gallery[0]), len(queries[0])
    codes = _codes_with_queries(state, k1, k2) if transductive else _codes(state, k1, k2)
    depth = min(total, k + max(k1, 4 * k1 * k2))
    ranks, scores = state.lists(depth)
    found, short = [], []
    for query in range(count):
        single = [q[query] for q in queries]
        if transductive:
            code = codes.averaged[total + query]
            columns, values = code.indices, code.data
        else:
            columns, values = query_code(
                codes,
                ranks[query],
                scores[query],
                lambda rows: fused_score(single, [g[rows] for g in gallery], weights),
            )
        sharing, jaccard = jaccard_distances(codes, columns, values)
        inside = sharing < total
        sharing, jaccard = sharing[inside], jaccard[inside]
        near = fused_score(single, [g[sharing] for g in gallery], weights)
        found.append((sharing, near, mixed(jaccard, near, share)))
        others = np.sum(~np.isin(ranks[query], sharing) & (ranks[query] >= 0))
        if others < k and (ranks[query] >= 0).all() and depth < total:
            short.append(query)
    deeper = {}
    if short:
        depth = min(total, k + max(len(found[query][0]) for query in short))
        lists = replace(state, queries=tuple(q[short] for q in queries), ranks=None).lists(depth)
        deeper = {query: (lists[0][place], lists[1][place]) for place, query in enumerate(short)}
    new_ranks, new_scores = np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf)
    for query, (sharing, near, values) in enumerate(found):
        rows, similarities = deeper.get(query, (ranks[query], scores[query]))
        other = ~np.isin(rows, sharing) & (rows >= 0)
        rows, near = np.concatenate([sharing, rows[other]]), np.concatenate([near, similarities[other]])
        values = np.concatenate([values, mixed(np.ones(np.sum(other)), similarities[other], share)])
        order = np.lexsort((rows, -near, -values))[:k]  # with share = 0 many values are equal
        new_ranks[query, : len(order)], new_scores[query, : len(order)] = rows[order], values[order]
    return replace(state, ranks=new_ranks, scores=new_scores)


def _codes(state: State, k1: int, k2: int) -> Codes:
    """The codes of the gallery alone."""
    return _learnt(state.gallery, state.graph(k1), state, state.excluded, k1, k2)


def _codes_with_queries(state: State, k1: int, k2: int) -> Codes:
    """The codes of gallery and queries together, as the paper has it; the queries' numbers come last."""
    nodes = [RowStack([g, q]) for g, q in zip(state.gallery, state.queries)]
    unreadable = np.all([~np.any(q, axis=1) for q in state.queries], axis=0)
    excluded = np.concatenate([state.excluded, unreadable])
    graph = neighbour_graph(nodes, state.weights, k1, excluded=excluded, progress=state.progress)
    return _learnt(nodes, graph, state, excluded, k1, k2)


def _learnt(nodes, graph, state: State, excluded: np.ndarray, k1: int, k2: int) -> Codes:
    return learn_codes(
        *graph,
        lambda left, right: pair_scores(nodes, state.weights, left, right),
        k1,
        k2,
        excluded=excluded,
        progress=state.progress,
    )


def diffuse(
    state: State,
    *,
    neighbours: int = 50,
    query_neighbours: int = 10,
    alpha: float = 0.99,
    gamma: float = 3.0,
    iterations: int = 50,
) -> State:
    """Diffusion on the gallery's neighbour graph, see `features.ranking.diffusion`: images that it reaches by their
    diffused score, ties to the lower row, then the others in the order of the plain list, with score 0.
    """
    k = state.k
    smoothing = transition(*state.graph(neighbours), neighbours=neighbours, gamma=gamma)
    ranks, scores = state.lists(max(k, query_neighbours))
    new_ranks, new_scores = np.full((len(ranks), k), -1, dtype=np.int64), np.full((len(ranks), k), -np.inf)
    for query, (row, similarity) in enumerate(zip(ranks, scores)):
        flow = diffused(
            smoothing,
            row[:query_neighbours],
            similarity[:query_neighbours],
            alpha=alpha,
            gamma=gamma,
            iterations=iterations,
        )
        reached = np.flatnonzero(flow > 0)
        reached = reached[best_first(flow[reached], reached, k)]
        rest = row[(row >= 0) & ~np.isin(row, reached)]
        rows = np.concatenate([reached, rest])[:k]
        new_ranks[query, : len(rows)], new_scores[query, : len(rows)] = rows, np.maximum(flow[rows], 0.0)
    return replace(state, ranks=new_ranks, scores=new_scores)
