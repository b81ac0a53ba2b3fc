"""Groups of queries and splits of whole groups, against graph search and exhaustive subsets."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition.errors import ConfigurationError
from competition.images import list_images
from competition.labels import read_labels, relevant_rows
from competition.splits import bootstrap_groups, folds, private_mask, query_groups

GROUPS = st.lists(st.integers(0, 8), min_size=1, max_size=12).map(np.array)
LABELS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=12)


def test_groups_by_hand():
    relevant = [["a"], ["b"], ["c", "d"], ["b", "e"], ["e", "a"], ["f"]]
    assert query_groups(relevant).tolist() == [0, 0, 1, 0, 0, 2]
    assert query_groups([np.array([3, 4]), np.array([5]), np.array([4])]).tolist() == [0, 1, 0]
    assert query_groups([]).tolist() == []


@given(LABELS)
def test_groups_are_connected_components(relevant):
    groups = query_groups(relevant)
    for query in range(len(relevant)):
        reached, waiting = set(), [query]
        while waiting:
            current = waiting.pop()
            if current not in reached:
                reached.add(current)
                waiting += [
                    other for other in range(len(relevant)) if set(relevant[current]) & set(relevant[other])
                ]
        assert set(np.flatnonzero(groups == groups[query])) == reached
    first = [groups.tolist().index(group) for group in range(groups.max() + 1)]
    assert first == sorted(first)


@given(GROUPS, st.floats(0, 0.999), st.integers(0, 3))
def test_private_is_whole_groups_and_as_near_as_they_allow(groups, share, seed):
    mask = private_mask(groups, share, seed)
    assert mask.dtype == bool and mask.shape == groups.shape and not mask.all()
    assert not set(groups[mask]) & set(groups[~mask])
    sizes = [int((groups == group).sum()) for group in np.unique(groups)]
    sums = [sum(subset) for n in range(len(sizes)) for subset in combinations(sizes, n)]
    nearest = min(abs(total - share * len(groups)) for total in sums)
    assert abs(mask.sum() - share * len(groups)) == pytest.approx(nearest)
    assert (mask == private_mask(groups, share, seed)).all()


def test_private_share():
    groups = np.arange(100)
    assert not private_mask(groups, 0, 0).any()
    assert private_mask(groups, 0.3, 0).sum() == 30
    assert len({private_mask(groups, 0.3, seed).tobytes() for seed in range(10)}) == 10
    drawn = np.mean([private_mask(groups, 0.3, seed) for seed in range(400)], axis=0)
    assert 0.15 < drawn.min() and drawn.max() < 0.45  # no query is favoured: 0.3 ± 6.5 sigma
    assert not private_mask(np.zeros(5), 0.9, 0).any()  # one group of all: cannot be private


@given(GROUPS, st.integers(1, 4), st.integers(0, 3))
def test_folds(groups, n_folds, seed):
    names, sizes = np.unique(groups, return_counts=True)
    if n_folds > len(names):
        with pytest.raises(
            ConfigurationError, match=f"{n_folds} folds of {len(names)} groups of queries: expected 1 to"
        ):
            folds(groups, n_folds, seed)
        return
    fold = folds(groups, n_folds, seed)
    filled = np.bincount(fold, minlength=n_folds)
    assert len(filled) == n_folds and filled.min() > 0
    assert filled.max() - filled.min() <= sizes.max()
    assert all(len(set(fold[groups == group])) == 1 for group in names)
    assert (fold == folds(groups, n_folds, seed)).all()


def test_folds_depend_on_the_seed():
    assert len({folds(np.arange(50), 5, seed).tobytes() for seed in range(5)}) == 5


@given(GROUPS, st.integers(1, 5), st.integers(0, 3))
def test_bootstrap_draws_whole_groups(groups, n_samples, seed):
    counts = bootstrap_groups(groups, n_samples, seed)
    assert counts.shape == (n_samples, len(groups)) and counts.min() >= 0
    names, first = np.unique(groups, return_index=True)
    assert (counts[:, first].sum(axis=1) == len(names)).all()
    for group in names:
        assert (counts[:, groups == group] == counts[:, groups == group][:, :1]).all()
    assert (counts == bootstrap_groups(groups, n_samples, seed)).all()


def test_bootstrap_is_unbiased():
    counts = bootstrap_groups(np.arange(20), 4000, 0)
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.1)
    assert counts.var(axis=0) == pytest.approx(np.full(20, 0.95), abs=0.15)  # binomial: n p (1 - p)


def test_grocery(shared):
    queries, gallery = (list_images(shared / "grocery" / name).ids for name in ("val", "gallery"))
    labels = read_labels(shared / "grocery" / "val.csv", query_ids=queries, gallery_ids=gallery)
    groups = query_groups(list(labels.values()))
    assert groups.max() + 1 == 81 and set(np.bincount(groups)) == {2}
    assert (groups == query_groups(relevant_rows(labels, gallery))).all()
    assert private_mask(groups, 0.3, 0).sum() == 48  # 48.6 wanted, groups of two
