"""Lists re-ranked on the gallery's neighbour graph: exact over the whole gallery, from shortlists proven
sufficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features.ranking.diffusion import diffused, transition
from features.ranking.neighbours import neighbour_graph
from features.ranking.reciprocal import jaccard_distances, learn_codes, mixed, query_code
from features.ranking.views import RowStack
from features.search import search
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


def reciprocal_lists(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    k: int,
    *,
    k1: int = 20,
    k2: int = 6,
    share: float = 0.3,
    excluded: np.ndarray | None = None,
    transductive: bool = False,
    folder: Path | None = None,
    identity: Sequence[str] | None = None,
    norm_bounds: Sequence[float] | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) and scores (Q, k) of k-reciprocal re-ranking over the whole gallery.

    Only images that share a column with a query's code have a Jaccard distance below 1; all others keep the
    order of their similarity. So those and the k best of the others hold the k best of all.
    """
    total, count = len(gallery[0]), len(queries[0])
    excluded = np.zeros(total, bool) if excluded is None else excluded
    if transductive:
        nodes = [RowStack([g, q]) for g, q in zip(gallery, queries)]
        unreadable = np.all([~np.any(q, axis=1) for q in queries], axis=0)
        codes = _codes(
            nodes, weights, k1, k2, np.concatenate([excluded, unreadable]), None, None, None, progress
        )
    else:
        codes = _codes(gallery, weights, k1, k2, excluded, folder, identity, norm_bounds, progress)
    depth = min(total, k + max(k1, 4 * k1 * k2))
    ranks, scores = search(queries, gallery, weights, depth, excluded=excluded, norm_bounds=norm_bounds)
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
        found.append(
            (sharing, mixed(jaccard, fused_score(single, [g[sharing] for g in gallery], weights), share))
        )
        others = np.sum(~np.isin(ranks[query], sharing) & (ranks[query] >= 0))
        if others < k and (ranks[query] >= 0).all() and depth < total:
            short.append(query)
    deeper = {}
    if short:
        depth = min(total, k + max(len(found[query][0]) for query in short))
        lists = search(
            [q[short] for q in queries], gallery, weights, depth, excluded=excluded, norm_bounds=norm_bounds
        )
        deeper = {query: (lists[0][place], lists[1][place]) for place, query in enumerate(short)}
    new_ranks, new_scores = np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf)
    for query, (sharing, values) in enumerate(found):
        rows, similarities = deeper.get(query, (ranks[query], scores[query]))
        other = ~np.isin(rows, sharing) & (rows >= 0)
        rows = np.concatenate([sharing, rows[other]])
        values = np.concatenate([values, mixed(np.ones(np.sum(other)), similarities[other], share)])
        order = best_first(values, rows, k)
        new_ranks[query, : len(order)], new_scores[query, : len(order)] = rows[order], values[order]
    return new_ranks, new_scores


def _codes(gallery, weights, k1, k2, excluded, folder, identity, norm_bounds, progress):
    graph, scores = neighbour_graph(
        gallery,
        weights,
        k1,
        excluded=excluded,
        folder=folder,
        identity=identity,
        norm_bounds=norm_bounds,
        progress=progress,
    )
    return learn_codes(
        graph,
        scores,
        lambda left, right: pair_scores(gallery, weights, left, right),
        k1,
        k2,
        excluded=excluded,
        progress=progress,
    )


def diffusion_lists(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    k: int,
    *,
    neighbours: int = 50,
    query_neighbours: int = 10,
    alpha: float = 0.99,
    gamma: float = 3.0,
    iterations: int = 50,
    excluded: np.ndarray | None = None,
    folder: Path | None = None,
    identity: Sequence[str] | None = None,
    norm_bounds: Sequence[float] | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) and diffused scores (Q, k): images that diffusion reaches by their score, ties to
    the lower row, then the others in the order of the plain list, with score 0.
    """
    graph, values = neighbour_graph(
        gallery,
        weights,
        neighbours,
        excluded=excluded,
        folder=folder,
        identity=identity,
        norm_bounds=norm_bounds,
        progress=progress,
    )
    smoothing = transition(graph, values, neighbours=neighbours, gamma=gamma)
    ranks, scores = search(
        queries, gallery, weights, max(k, query_neighbours), excluded=excluded, norm_bounds=norm_bounds
    )
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
    return new_ranks, new_scores
