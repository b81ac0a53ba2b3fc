"""Branch and bound against an exact enumeration of the line arrangement, and its bound against sampling."""

import itertools

import numpy as np
import pytest

from tests.tuning_tests.test_robust import make_scene
from tuning.certificate import _Bound, certify, halves
from tuning.objective import mean_average_precision
from tuning.region import random_coordinates, vertices


def arrangement_points(scene, corners):
    """A point in every cell of the arrangement of the lines where two items tie, within the triangle of 3 vertices.

    Every cell of a bounded arrangement has a corner, a crossing of two lines, and there fills one sector between
    neighbouring lines: so a small step from each crossing into each sector meets every cell.
    """
    lines = [np.eye(3)[i] for i in range(3)]
    for query in range(scene.n_queries):
        t = scene.similarities[:, query].T @ corners.T
        for a, b in itertools.combinations(range(len(t)), 2):
            if scene.relevant[query, a] != scene.relevant[query, b]:
                lines.append(t[a] - t[b])
    plane = np.ones(3) / np.sqrt(3)
    for first, second in itertools.combinations(lines, 2):
        crossing = np.cross(first, second)
        if abs(crossing.sum()) < 1e-12:
            continue
        point = crossing / crossing.sum()
        if (point < -1e-12).any():
            continue
        through = [line for line in lines if abs(line @ point) < 1e-12]
        directions = []
        for line in through:
            direction = np.cross(line, plane)
            directions += [direction / np.linalg.norm(direction), -direction / np.linalg.norm(direction)]
        basis_x = directions[0]
        basis_y = np.cross(plane, basis_x)
        angles = np.sort([np.arctan2(d @ basis_y, d @ basis_x) for d in directions])
        middles = (angles + np.append(angles[1:], angles[0] + 2 * np.pi)) / 2
        for angle in middles:
            step = point + 1e-7 * (np.cos(angle) * basis_x + np.sin(angle) * basis_y)
            if (step > 0).all():
                yield step / step.sum()


@pytest.mark.parametrize("seed", range(6))
def test_three_components_agree_with_the_line_arrangement(seed):
    generator = np.random.default_rng(seed)
    relevant = generator.random((4, 8)) < 0.25
    relevant[:, 0] |= ~relevant.any(axis=1)
    scene = make_scene(generator.random((4, 8, 3)), relevant, k=3)
    corners = vertices(generator.uniform(0.3, 1, 3), ["a", "a", "b"])
    exact = max(mean_average_precision(scene, point @ corners) for point in arrangement_points(scene, corners))
    found = certify([scene], [corners], seconds=20, max_nodes=200_000)
    assert found.best == pytest.approx(exact, abs=1e-12)
    assert found.bound == pytest.approx(exact, abs=1e-12) and found.gap == 0
    assert mean_average_precision(scene, found.coordinates @ corners) == pytest.approx(found.best, abs=1e-12)


def test_the_bound_holds_over_every_sub_simplex():
    generator = np.random.default_rng(3)
    for _ in range(20):
        relevant = generator.random((5, 15)) < 0.3
        relevant[:, 3] |= ~relevant.any(axis=1)
        values = np.round(generator.random((5, 15, 4)), 1)  # many ties
        scene = make_scene(values, relevant, k=7)
        corners = vertices(generator.uniform(0.3, 1, 4), ["a", "a", "a", "b"])
        simplex = np.eye(4)
        for _ in range(int(generator.integers(0, 8))):
            simplex = halves(simplex)[int(generator.integers(0, 2))]
        bound = _Bound(scene, corners).upper(simplex)
        for point in random_coordinates(100, 4, generator):
            assert mean_average_precision(scene, point @ simplex @ corners) <= bound + 1e-12


def test_halves_cover_the_simplex():
    simplex = random_coordinates(4, 4, np.random.default_rng(0))
    volume = abs(np.linalg.det(simplex))
    first, second = halves(simplex)
    assert abs(np.linalg.det(first)) == pytest.approx(volume / 2) == abs(np.linalg.det(second))
    assert halves(np.tile([0.5, 0.5], (2, 1))) == []


def test_several_combinations_share_one_search():
    poor = make_scene([[[0.1, 0.2], [0.5, 0.5]]], [[True, False]], k=1)
    good = make_scene([[[0.9, 0.1], [0.5, 0.5]]], [[True, False]], k=1)
    found = certify([poor, good], [np.eye(2), np.eye(2)], seconds=5)
    assert (found.best, found.bound, found.combination) == (1.0, 1.0, 1)


def test_out_of_time_the_bound_still_holds():
    generator = np.random.default_rng(1)
    relevant = np.zeros((10, 40), dtype=bool)
    relevant[:, :2] = True
    scene = make_scene(generator.random((10, 40, 6)), relevant)
    short = certify([scene], [np.eye(6)], seconds=60, max_nodes=20)
    longer = certify([scene], [np.eye(6)], seconds=60, max_nodes=2000)
    assert short.bound >= longer.bound >= longer.best >= short.best and longer.gap > 0
