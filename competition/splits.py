"""Groups of queries that share a correct image, and splits that keep every group whole."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from competition.configuration import Tuning
from competition.errors import ConfigurationError


def query_groups(relevant: Sequence[Iterable[Hashable]]) -> np.ndarray:
    """Group number of each query: (n_queries,) int64, numbered by first appearance from 0.

    relevant: per query its correct gallery images (rows or ids). Queries that share one are in one group,
    also through a third query.
    """
    import pandas  # predict does without these
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    image_of: dict[Hashable, int] = {}
    edges = [
        (query, len(relevant) + image_of.setdefault(image, len(image_of)))
        for query, images in enumerate(relevant)
        for image in (images.tolist() if isinstance(images, np.ndarray) else images)
    ]
    size = len(relevant) + len(image_of)
    first, second = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), dtype=bool), (first, second)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][: len(relevant)]
    return pandas.factorize(labels)[0]  # by first appearance


def private_mask(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which queries are private: (n_queries,) bool; whole groups, drawn with `seed`.

    Their number is as near to share * n_queries as whole groups allow (the smaller of two equally near), and
    never all of them. It can be 0, also for share > 0 where every group is too large.
    """
    groups = np.asarray(groups)
    names, sizes = np.unique(groups, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    # reachable[i]: bit s is set if some of the groups shuffled[i:] have s queries together
    reachable = [1]
    for group in shuffled[::-1]:
        reachable.append(reachable[-1] | reachable[-1] << int(sizes[group]))
    reachable.reverse()
    wanted = share * len(groups)
    sums = [total for total in range(len(groups)) if reachable[0] >> total & 1] or [0]
    left = min(sums, key=lambda total: (abs(total - wanted), total))
    private = []
    for position, group in enumerate(shuffled):
        size = int(sizes[group])
        if left >= size and reachable[position + 1] >> (left - size) & 1:
            private.append(names[group])
            left -= size
    return np.isin(groups, np.array(private, dtype=groups.dtype))


def groups_and_private(
    relevant: Sequence[Iterable[Hashable]], tuning: Tuning
) -> tuple[np.ndarray, np.ndarray]:
    """Groups (Q,) of labelled queries, and which of them are private (Q,) bool by a study's share and seed."""
    groups = query_groups(relevant)
    return groups, private_mask(groups, tuning.private, tuning.seed)


def folds(groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold number of each query: (n_queries,) int64 in 0 … n_folds - 1; whole groups, of about equal sizes.

    Groups go largest first (equal sizes in seeded order) into the fold with the fewest queries.
    ConfigurationError where there are fewer groups than folds.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if not 1 <= n_folds <= len(names):
        raise ConfigurationError(
            f"{n_folds} folds of {len(names)} groups of queries: expected 1 to {len(names)} folds"
        )
    sizes = np.bincount(member)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold_of = np.zeros(len(names), dtype=np.int64)
    filled = np.zeros(n_folds, dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += sizes[group]
    return fold_of[member]


def bootstrap_groups(groups: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """How often each query is drawn in each bootstrap sample: (n_samples, n_queries) int64.

    Each sample draws as many groups as there are, with replacement, each with all its queries. The figure of
    sample b is counts[b] @ values / counts[b].sum().
    """
    names, member = np.unique(groups, return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    return np.random.default_rng(seed).multinomial(len(names), shares, size=n_samples)[:, member]
