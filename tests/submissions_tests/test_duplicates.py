"""Groups of duplicates against networkx, lists in which no two images look alike against plain loops."""

from __future__ import annotations

from types import SimpleNamespace

import networkx
import numpy as np
import pytest

from competition.errors import Top7Error
from features.ranked_lists import RankedLists
from submissions.duplicates import distinct_looks, first_of_each_look, grouped


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def looks(n: int, seed: int = 0) -> np.ndarray:
    """(n, 8) unit rows of about n / 4 looks."""
    rng = np.random.default_rng(seed)
    return unit(
        rng.normal(size=(n // 4 + 1, 8))[rng.integers(0, n // 4 + 1, n)] + 0.05 * rng.normal(size=(n, 8))
    )


def test_the_best_of_each_look_by_plain_loops():
    descriptors = looks(40)
    ranks = np.stack([np.random.default_rng(query).permutation(40) for query in range(5)])
    places = first_of_each_look(ranks, descriptors, 0.9, 6)
    for rows, found in zip(ranks, places):
        kept: list[int] = []
        for place, row in enumerate(rows):
            if all(float(descriptors[row] @ descriptors[rows[other]]) < 0.9 for other in kept):
                kept.append(place)
        assert found.tolist() == kept[:6]
    assert (places != np.arange(6)).any(1).sum() >= 3


def test_short_lists_and_missing_rows():
    descriptors = unit(np.array([[1, 0], [1, 0.01], [0, 1]]))
    ranks = np.array([[0, 1, 2, -1], [1, 0, -1, -1]])
    assert first_of_each_look(ranks, descriptors, 0.9, 2).tolist() == [[0, 2], [0, -1]]


def test_lists_go_as_deep_as_it_takes_and_no_deeper():
    descriptors, depths = looks(200, seed=1), []
    order = np.argsort(-(descriptors @ descriptors[:3].T), axis=0, kind="stable").T

    def lists_of(depth: int) -> RankedLists:
        depths.append(depth)
        scores = np.take_along_axis(
            descriptors[:3].astype(float) @ descriptors.T.astype(float), order[:, :depth], 1
        )
        return RankedLists(("a", "b", "c"), tuple(map(str, range(200))), order[:, :depth], scores, ())

    dump = SimpleNamespace(descriptors=descriptors)
    found = distinct_looks(lists_of, dump, 0.9, 5, 200)
    whole = np.take_along_axis(order, first_of_each_look(order, descriptors, 0.9, 5), 1)
    assert np.array_equal(found.ranks, whole) and depths[0] == 5 and 5 < depths[-1] <= 200
    expected = [
        [float(descriptors[q].astype(float) @ descriptors[row].astype(float)) for row in rows]
        for q, rows in enumerate(whole)
    ]
    assert np.allclose(found.scores, expected, atol=1e-12)
    depths.clear()
    assert np.array_equal(distinct_looks(lists_of, dump, 1.5, 5, 200).ranks, order[:, :5]) and depths == [5]
    with pytest.raises(Top7Error, match="query 'a' has 1 answers that differ so much: expected 5"):
        distinct_looks(lists_of, dump, -1.0, 5, 200)


def test_groups_are_the_connected_components():
    generator = np.random.default_rng(0)
    for n_pairs in (0, 1, 10, 40):
        pairs = [
            (*sorted(generator.choice(60, 2, replace=False).tolist()), float(generator.random()))
            for _ in range(n_pairs)
        ]
        groups, cosines = grouped(pairs)
        graph = networkx.Graph([pair[:2] for pair in pairs])
        assert sorted(groups) == sorted(map(sorted, networkx.connected_components(graph)))
        assert [(-len(rows), rows[0]) for rows in groups] == sorted((-len(rows), rows[0]) for rows in groups)
        assert all(cosines[row] == max(c for *pair, c in pairs if row in pair) for row in cosines)
