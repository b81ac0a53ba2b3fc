"""Naive re-ranking, written as the papers (and their programs) state it, for the tests to compare with.

Steps are applied to plain arrays here, and whitenings learnt outside a study.
"""

from __future__ import annotations

import numpy as np

from features.dumps.derived import content_digest
from features.ranking.principal_axes import principal_axes
from features.ranking.state import State
from features.ranking.steps import apply_steps, check_steps
from features.ranking.steps.photo_whiten import photo_axes, through
from features.search.similarity import component_similarity


def start(queries, gallery, weights, k, *, excluded=None, groups=None, identity=None, folder=None, **more):
    """What a recipe's first step gets, of L arrays of queries and of the gallery."""
    if identity is None:
        identity = [content_digest(part) for part in gallery] if folder is not None else [""] * len(gallery)
    return State(
        tuple(map(np.asarray, queries)),
        tuple(gallery),
        np.asarray(weights, dtype=np.float64),
        tuple(range(len(gallery))) if groups is None else tuple(groups),
        tuple(identity),
        np.zeros(len(gallery[0]), bool) if excluded is None else np.asarray(excluded, dtype=bool),
        k,
        folder=folder,
        **more,
    )


def rank(queries, gallery, weights, steps, k, **options):
    """Ranks (Q, k) and scores (Q, k) after steps; options: see `start`."""
    check_steps(steps)
    return apply_steps(start(queries, gallery, weights, k, **options), steps).lists(k)


def learn_whitening(rows, dim, *, exponent=1.0, shrinkage=0.0, **sample):
    """PCA of rows (n, D) to at most `dim` dimensions, whitened; sample: see `principal_axes`."""
    return principal_axes(rows, **sample).whitening(dim, exponent, shrinkage)


def learn_photo_whitening(rows, scatter, dim, *, shrinkage, exponent=0.0, **sample):
    """The whitening that makes little of what a photo changes, then PCA of rows (n, D) there to `dim` dimensions."""
    return through(*photo_axes(rows, scatter, shrinkage, **sample), dim, exponent)


def clustered(count, dimension, seed, spread=0.6):
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((max(1, count // 5), dimension))[
        generator.integers(0, max(1, count // 5), count)
    ]
    rows = rows + spread * generator.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def all_pairs(rows):
    return np.stack([component_similarity(row, rows) for row in rows])


def ranked_with_self_first(similarities):
    order = []
    for i, row in enumerate(similarities):
        others = [j for j in sorted(range(len(row)), key=lambda j: (-row[j], j)) if j != i]
        order.append([i, *others])
    return np.array(order)


def zhong(similarities, k1, k2):
    """V after averaging, as the authors' program computes it, with distance 1 - similarity."""
    total, initial = len(similarities), ranked_with_self_first(similarities)
    codes = np.zeros((total, total))

    def mutual(i, k):
        forward = initial[i, : k + 1]
        return forward[[i in initial[j, : k + 1] for j in forward]]

    for i in range(total):
        own = mutual(i, k1)
        expanded = own
        for candidate in own:
            theirs = mutual(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        weight = np.exp(-(1 - similarities[i, expanded]))
        codes[i, expanded] = weight / weight.sum()
    return codes, np.stack([codes[initial[i, :k2]].mean(axis=0) for i in range(total)])


def naive_jaccard(a, b):
    smaller = np.minimum(a, b).sum()
    return 1 - smaller / (2 - smaller)


def naive_diffusion(similarities, neighbours, query_rows, query_similarities, alpha, gamma):
    total, initial = len(similarities), ranked_with_self_first(similarities)
    affinity = np.zeros((total, total))
    for i in range(total):
        for j in initial[i, 1 : neighbours + 1]:
            if i in initial[j, 1 : neighbours + 1]:
                affinity[i, j] = max(similarities[i, j], 0) ** gamma
    degree = affinity.sum(axis=1)
    root = np.array([d**-0.5 if d > 0 else 0.0 for d in degree])
    y = np.zeros(total)
    y[query_rows] = np.maximum(query_similarities, 0) ** gamma
    return np.linalg.solve(np.eye(total) - alpha * root[:, None] * affinity * root, y)
