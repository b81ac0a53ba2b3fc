"""The best cell's centre against sampled balls and a case solved by hand."""

import numpy as np
import pytest

from tuning.best import largest_ball
from tuning.objective import PaddedCandidates, average_precisions
from tuning.region import random_coordinates


def pad_candidates(similarities, relevant, k=7):
    """similarities: (Q, n, L)."""
    similarities = np.asarray(similarities, dtype=float)
    rows = np.tile(np.arange(similarities.shape[1]), (len(similarities), 1))
    relevant = np.asarray(relevant, dtype=bool)
    return PaddedCandidates(np.moveaxis(similarities, -1, 0).copy(), rows, relevant, relevant.sum(axis=1), k)


def test_two_components_by_hand():
    # item 0 (relevant) beats item 1 where 0.9 w0 + 0.1 w1 > 0.5, i.e. w0 > 1/2: the cell is [1/2, 1], its middle 3/4
    padded = pad_candidates([[[0.9, 0.1], [0.5, 0.5]]], [[True, False]], k=1)
    centre, radius = largest_ball(padded, np.array([0.6, 0.4]), np.eye(2))
    np.testing.assert_allclose(centre, [0.75, 0.25], atol=1e-9)
    assert radius == pytest.approx(0.25 * np.sqrt(2))


def test_the_ball_keeps_every_average_precision():
    generator = np.random.default_rng(4)
    for _ in range(10):
        padded = pad_candidates(generator.random((6, 12, 4)), generator.random((6, 12)) < 0.3, k=3)
        padded = padded.of_queries(padded.n_relevant > 0)
        start = random_coordinates(1, 4, generator)[0]
        centre, radius = largest_ball(padded, start, np.eye(4))
        reference = average_precisions(padded, start)
        if radius == 0:
            continue
        for _ in range(200):  # points in the ball: a direction in the plane, any length up to the radius
            direction = generator.normal(size=4)
            direction -= direction.mean()
            point = centre + direction / np.linalg.norm(direction) * radius * 0.999 * generator.random()
            assert (point >= -1e-12).all()
            np.testing.assert_array_equal(average_precisions(padded, np.clip(point, 0, None)), reference)


def test_the_ball_is_the_largest():
    # no sampled point of the same cell sees a longer free way to the cell's border than the centre does
    generator = np.random.default_rng(7)
    padded = pad_candidates(generator.random((2, 6, 3)), [[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]], k=2)
    start = np.array([0.3, 0.3, 0.4])
    centre, radius = largest_ball(padded, start, np.eye(3))
    reference = average_precisions(padded, start)
    grid = random_coordinates(4000, 3, generator)
    same = np.array([np.array_equal(average_precisions(padded, point), reference) for point in grid])
    others = grid[~same]
    for point in grid[same][:300]:
        # outside the simplex counts as another cell: distance to a face with coordinate 0 is c * sqrt(3/2)
        nearest = min(np.linalg.norm(others - point, axis=1).min(), (point * np.sqrt(1.5)).min())
        assert nearest <= radius * 1.05 + 0.03  # the sampled border is a little too far


def test_a_point_held_by_a_tie_is_its_own_cell():
    padded = pad_candidates([[[0.5, 0.5], [0.5, 0.5]]], [[True, False]], k=1)
    centre, radius = largest_ball(padded, np.array([0.2, 0.8]), np.eye(2))
    assert radius >= 0 and average_precisions(padded, centre)[0] == 1.0
