"""Each measure of Table 1 against scipy's own, and its exact search against sorting scipy's values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from competition.errors import Top7Error
from features.ranking.steps.measure import KL_UNIFORM_SHARE, MEASURES, measured
from features.search.exact_search import search


@pytest.fixture
def layers():
    """Two layers of 40 gallery rows and 6 queries: raw (non-negative), their norms, and the unit rows."""
    generator = np.random.default_rng(7)
    sets = {}
    for name, count in (("queries", 6), ("gallery", 40)):
        raw = [generator.gamma(0.5, size=(count, d)) * scale for d, scale in ((12, 3.0), (31, 200.0))]
        raw[0][raw[0] < 0.05] = 0.0
        norms = [np.linalg.norm(r, axis=1).astype(np.float32) for r in raw]
        unit = [(r / np.linalg.norm(r, axis=1, keepdims=True)).astype(np.float32) for r in raw]
        sets[name] = unit, norms
    sets["gallery"][0][0][17] = sets["gallery"][0][0][4]  # an exact duplicate in both layers
    sets["gallery"][0][1][17] = sets["gallery"][0][1][4]
    sets["gallery"][1][0][17], sets["gallery"][1][1][17] = sets["gallery"][1][0][4], sets["gallery"][1][1][4]
    return sets


WEIGHTS = np.array([0.3, 0.7])


def smoothed(row):
    share = np.maximum(row.astype(float), 0)
    return (1 - KL_UNIFORM_SHARE) * share / share.sum() + KL_UNIFORM_SHARE / len(row)


def by_scipy(name, q, x, q_norms, x_norms):
    """The measure of one query with one gallery image (lists of layers), larger is nearer."""
    distance = scipy.spatial.distance
    q, x = [row.astype(float) for row in q], [row.astype(float) for row in x]
    if name == "correlation_concatenated":
        joined = [np.concatenate([w**0.5 * row for w, row in zip(WEIGHTS, rows)]) for rows in (q, x)]
        return 1 - distance.correlation(*joined)
    total = 0.0
    for w, a, b, na, nb in zip(WEIGHTS, q, x, q_norms, x_norms):
        total += (
            w
            * {
                "cosine": lambda: (1 - distance.cosine(a, b)) * np.linalg.norm(a) * np.linalg.norm(b),
                "correlation": lambda: 1 - distance.correlation(a, b),
                "euclidean_raw": lambda: -distance.sqeuclidean(a * float(na), b * float(nb)),
                "euclidean_normalised": lambda: -distance.sqeuclidean(a, b),
                "kl_divergence": lambda: -scipy.stats.entropy(smoothed(a), smoothed(b)),
            }[name]()
        )
    return total


@pytest.mark.parametrize("name", MEASURES)
def test_equals_scipy(name, layers, monkeypatch):
    (queries, query_norms), (gallery, gallery_norms) = layers["queries"], layers["gallery"]
    expected = np.array(
        [
            [
                by_scipy(
                    name,
                    [q[i] for q in queries],
                    [g[j] for g in gallery],
                    [n[i] for n in query_norms],
                    [n[j] for n in gallery_norms],
                )
                for j in range(40)
            ]
            for i in range(6)
        ]
    )
    inputs = measured(name, queries, gallery, WEIGHTS, query_norms=query_norms, gallery_norms=gallery_norms)
    ranks, scores = search(*inputs, 40)
    size = np.abs(expected).max()
    assert np.abs(scores - np.take_along_axis(expected, ranks, 1)).max() < 1e-12 * max(1, size)
    order = np.array([np.lexsort((np.arange(40), -row.round(9))) for row in expected / size])
    assert (ranks == order).all()
    for block in (1, 7, 39):
        monkeypatch.setattr("features.search.exact_search.BLOCK_ROWS", block)
        again = search(*inputs, 5)
        assert (again[0] == ranks[:, :5]).all() and (again[1] == scores[:, :5]).all()


@pytest.mark.parametrize("name", MEASURES)
def test_zero_and_negative_entries_and_a_gallery_of_one(name):
    queries = [np.array([[0, 0, 0], [-1, 0, 0], [1, 1, 1]], np.float32)]
    gallery = [np.array([[0, 0, 0]], np.float32)]
    ones = [np.ones(3, np.float32)], [np.ones(1, np.float32)]
    ranks, scores = search(
        *measured(name, queries, gallery, np.ones(1), query_norms=ones[0], gallery_norms=ones[1]), 2
    )
    assert (ranks == [[0, -1]] * 3).all() and np.isfinite(scores[:, 0]).all()


def test_a_constant_descriptor_correlates_with_nothing():
    rows = [np.array([[0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0]], np.float32)]
    _, scores = search(*measured("correlation", rows, rows, np.ones(1)), 2)
    assert scores == pytest.approx(np.array([[0, 0], [1, 0]]), abs=1e-15) and (scores[0] == 0).all()


def test_euclidean_on_unit_rows_ranks_as_cosine(layers):
    queries, gallery = layers["queries"][0], layers["gallery"][0]
    by_distance = search(*measured("euclidean_normalised", queries, gallery, WEIGHTS), 7)[0]
    assert (by_distance == search(queries, gallery, WEIGHTS, 7)[0]).all()


def test_raw_distance_ranks_otherwise(layers):
    (queries, query_norms), (gallery, gallery_norms) = layers["queries"], layers["gallery"]
    raw = search(
        *measured(
            "euclidean_raw", queries, gallery, WEIGHTS, query_norms=query_norms, gallery_norms=gallery_norms
        ),
        7,
    )[0]
    assert (raw != search(queries, gallery, WEIGHTS, 7)[0]).any()
    with pytest.raises(Top7Error, match="needs the norms before L2"):
        measured("euclidean_raw", queries, gallery, WEIGHTS)
