"""The region's vertices against the inequalities of eqs. 3 and 4."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from competition.errors import Top7Error
from tuning import region


def satisfies_eq3(weights, sums, chains, tolerance=1e-12):
    """The inequalities as printed, chain by chain: a second implementation without vertices."""
    if abs(sum(weights) - 1) > 1e-9 or min(weights) < -tolerance:
        return False
    for name in set(chains):
        u = [w * s for w, s, c in zip(weights, sums, chains) if c == name]
        if len(u) > 1 and any(deep < shallow - tolerance for shallow, deep in zip(u, u[1:])):
            return False
    return True


layouts = st.lists(st.integers(1, 5), min_size=1, max_size=3).flatmap(
    lambda lengths: st.tuples(
        st.just(tuple(f"c{i}" for i, n in enumerate(lengths) for _ in range(n))),
        st.lists(st.floats(0.01, 1.0), min_size=sum(lengths), max_size=sum(lengths)),
        st.integers(0, 2**32 - 1),
    )
)


def test_two_layers_by_hand():
    # S = (0.8, 0.4): vertex 1 has u equal, w ~ (1/0.8, 1/0.4) = (1.25, 2.5) -> (1/3, 2/3); vertex 2 is the deep layer
    found = region.vertices(np.array([0.8, 0.4]), ["a", "a"])
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3], [0, 1]], atol=1e-15)


def test_two_chains_and_a_free_component():
    found = region.vertices(np.array([0.5, 0.5, 0.0006, 0.9, 0.3]), ["a", "a", "pwa", "b", "b"])
    expected = [[0.5, 0.5, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0.25, 0.75], [0, 0, 0, 0, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-15)


@settings(max_examples=200, deadline=None)
@given(layouts)
def test_every_mixture_of_vertices_satisfies_the_inequalities(layout):
    chains, sums, seed = layout
    corners = region.vertices(np.array(sums), chains)
    coordinates = region.random_coordinates(5, len(sums), np.random.default_rng(seed))
    for weights in np.concatenate([coordinates @ corners, corners]):
        assert satisfies_eq3(weights, sums, chains)
        assert region.contains(weights, np.array(sums), chains)


@settings(max_examples=200, deadline=None)
@given(layouts)
def test_every_point_of_the_inequalities_is_a_mixture_of_vertices(layout):
    chains, sums, seed = layout
    generator = np.random.default_rng(seed)
    # a point built from the inequalities: sorted u within each chain, w = u / S, normalised
    weights = np.empty(len(sums))
    for name in dict.fromkeys(chains):
        members = [i for i, c in enumerate(chains) if c == name]
        weights[members] = np.sort(generator.random(len(members))) / np.array(sums)[members]
    weights /= weights.sum()
    coordinates = region.barycentric(weights, np.array(sums), chains)
    assert (coordinates >= -1e-12).all() and abs(coordinates.sum() - 1) < 1e-9
    np.testing.assert_allclose(coordinates @ region.vertices(np.array(sums), chains), weights, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(layouts)
def test_membership_agrees_with_the_inequalities_for_any_weights(layout):
    chains, sums, seed = layout
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(sums)))
    coordinates = region.barycentric(weights, np.array(sums), chains)
    if np.abs(coordinates).min() > 1e-6:  # away from the border both must agree
        assert region.contains(weights, np.array(sums), chains) == satisfies_eq3(weights, sums, chains)


def test_random_coordinates_are_uniform_on_the_simplex():
    # uniform on a simplex of 4 vertices: each coordinate is Beta(1, 3): mean 1/4, variance 3/80
    points = region.random_coordinates(200_000, 4, np.random.default_rng(0))
    np.testing.assert_allclose(points.mean(axis=0), 0.25, atol=0.003)
    np.testing.assert_allclose(points.var(axis=0), 3 / 80, atol=0.001)


def test_faces_are_named_exactly():
    np.testing.assert_array_equal(region.uniform_coordinates(region.face_uniforms([2], 4)), [0, 0, 1, 0])
    np.testing.assert_array_equal(
        region.uniform_coordinates(region.face_uniforms([0, 3], 4)), [0.5, 0, 0, 0.5]
    )


def test_the_readings_of_s():
    mean = np.array([0.9, 0.5])
    np.testing.assert_array_equal(region.layer_sums(mean, "similarity"), mean)
    np.testing.assert_allclose(region.layer_sums(mean, "distance"), [0.1, 0.5])
    assert region.region_chains(["a", "a"], "simplex") == ("0", "1")
    np.testing.assert_array_equal(region.vertices(region.layer_sums(mean, "simplex"), ["0", "1"]), np.eye(2))


def test_a_sum_that_is_not_positive_names_the_layer():
    with pytest.raises(Top7Error, match="net/conv1_2.*eq. 3"):
        region.vertices(np.array([-0.1, 0.5]), ["a", "a"], ["net/conv1_2", "net/conv2_2"])
    region.vertices(np.array([-0.1, 0.5]), ["a", "b"])  # chains of one are never ordered


def test_an_unknown_reading_names_the_nearest():
    with pytest.raises(Top7Error, match="did you mean 'similarity'"):
        region.layer_sums(np.ones(2), "similarty")
