"""Branch and bound against exact enumerations of the line arrangement, and its bound against sampling."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from competition.metrics import METRICS, query_figures
from tests.tuning_tests.test_robust import pad_candidates
from tuning.certificate import OpenPairs, certify
from tuning.objective import average_precisions, mean_average_precision
from tuning.region import random_coordinates, vertices


def arrangement_points(padded, corners):
    """A point in every cell of the arrangement of the lines where two items tie, within the triangle of 3 vertices.

    Every cell of a bounded arrangement has a corner, a crossing of two lines, and there fills one sector between
    neighbouring lines: so a small step from each crossing into each sector meets every cell.
    """
    lines = [np.eye(3)[i] for i in range(3)]
    for query in range(padded.n_queries):
        t = padded.similarities[:, query].T @ corners.T
        for a, b in itertools.combinations(range(len(t)), 2):
            if padded.relevant[query, a] != padded.relevant[query, b]:
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


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(6))
def test_three_components_agree_with_the_line_arrangement(seed, metric):
    generator = np.random.default_rng(seed)
    relevant = generator.random((4, 8)) < 0.25
    relevant[:, 0] |= ~relevant.any(axis=1)
    padded = replace(pad_candidates(generator.random((4, 8, 3)), relevant, k=3), metric=metric)
    corners = vertices(generator.uniform(0.3, 1, 3), ["a", "a", "b"])
    exact = max(
        mean_average_precision(padded, point @ corners) for point in arrangement_points(padded, corners)
    )
    found = certify([padded], [corners], seconds=20, max_nodes=200_000)
    assert found.best == pytest.approx(exact, abs=1e-12)
    assert found.bound == pytest.approx(exact, abs=1e-12) and found.gap == 0
    assert mean_average_precision(padded, found.coordinates @ corners) == pytest.approx(found.best, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_scene_gives_every_metric_as_the_full_lists_do(metric):
    generator = np.random.default_rng(5)
    relevant = generator.random((6, 9)) < 0.4
    relevant[:, 0] |= ~relevant.any(axis=1)
    similarities = np.round(generator.random((6, 9, 3)), 1)  # with ties
    padded = replace(pad_candidates(similarities, relevant, k=3), metric=metric)
    for point in random_coordinates(200, 3, generator):
        lists = np.argsort(-np.round(similarities @ point, 12), axis=1, kind="stable")
        expected = query_figures(lists, [np.flatnonzero(hits) for hits in relevant], 3, metric)
        np.testing.assert_allclose(average_precisions(padded, point), expected, atol=1e-12)


class Arrangement:
    """Three components with whole-number similarities, in whole-number arithmetic: no rounding, every tie a tie."""

    def __init__(self, values, relevant, k):
        """values: (Q, n, 3) int, items by rising row; relevant: (Q, n) bool."""
        self.values, self.relevant, self.k = values.astype(object), relevant, k
        lines = {tuple(int(x) for x in line) for line in np.eye(3, dtype=int)}
        for query, hits in enumerate(relevant):
            for a, b in itertools.product(np.flatnonzero(hits), np.flatnonzero(~hits)):
                line = tuple(int(x) for x in values[query, a] - values[query, b])
                if any(line):
                    lines.add(line)
        self.lines = sorted(lines)

    def ahead(self, query, item, rival, point, direction, favour):
        """Whether the rival stands before the relevant item at `point`, or just beside it in `direction`."""
        difference = self.values[query, item] - self.values[query, rival]
        for at in (point, direction):
            sign = sum(int(d) * x for d, x in zip(difference, at))
            if sign:
                return sign < 0
        if favour:  # a tie counts as won, unless the rival is as large everywhere and earlier
            return bool((difference <= 0).all()) and rival < item
        return rival < item

    def map_at(self, point, direction=(0, 0, 0), favour=False):
        total = Fraction(0)
        for query, hits in enumerate(self.relevant):
            items, rivals = np.flatnonzero(hits), np.flatnonzero(~hits)
            before = sorted(
                sum(self.ahead(query, a, b, point, direction, favour) for b in rivals) for a in items
            )
            places = [i + count for i, count in enumerate(before, start=1)]
            gains = [Fraction(i, place) for i, place in enumerate(places, start=1) if place <= self.k]
            total += sum(gains) / min(len(items), self.k)
        return total / len(self.relevant)

    def crossings(self):
        """Every point of the triangle where two lines cross, in whole numbers, with the lines through it."""
        found = {}
        for first, second in itertools.combinations(self.lines, 2):
            x = [
                int(value)
                for value in np.cross(np.array(first, dtype=object), np.array(second, dtype=object))
            ]
            total = sum(x)
            x = [value * (1 if total > 0 else -1) for value in x]
            if total and min(x) >= 0:
                found.setdefault(tuple(Fraction(value, abs(total)) for value in x), set()).update(
                    (first, second)
                )
        return found

    def best_of_cells(self):
        """The largest MAP@k of an open cell: one sector at a crossing is in each."""
        best = Fraction(0)
        for point, through in self.crossings().items():
            whole = [int(x * np.lcm.reduce([y.denominator for y in point])) for x in point]
            ways = [(b - c, c - a, a - b) for a, b, c in through]  # along each line, in the plane of sum 0
            ways = sorted(
                ways + [tuple(-x for x in way) for way in ways],
                key=lambda way: np.arctan2((way[1] - way[2]) / np.sqrt(3), way[0]),
            )
            for one, next_ in zip(ways, ways[1:] + ways[:1]):
                direction = tuple(x + y for x, y in zip(one, next_))
                if any(direction) and all(x > 0 or x == 0 and d > 0 for x, d in zip(whole, direction)):
                    best = max(best, self.map_at(whole, direction))
        return best

    def favoured(self):
        """The largest figure anywhere when every tie counts as won: it is reached at a crossing."""
        return max(self.map_at(point, favour=True) for point in self.crossings())


@pytest.mark.parametrize("seed", range(8))
def test_three_components_with_ties_and_duplicates_agree_with_whole_number_arithmetic(seed):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 9 if seed % 2 else 60, (3, 7, 3))
    values[:, 5], values[:, 6] = values[:, 1], values[:, 0]  # duplicates, in other rows
    relevant = generator.random((3, 7)) < 0.3
    relevant[:, 1] |= ~relevant.any(axis=1)
    exact = Arrangement(values, relevant, k=3)
    found = certify([pad_candidates(values / 64.0, relevant, k=3)], [np.eye(3)], seconds=60, max_nodes=20_000)
    cells, favoured = float(exact.best_of_cells()), float(exact.favoured())
    assert cells - 1e-12 <= found.best <= found.bound + 1e-12
    assert found.bound == pytest.approx(favoured, abs=1e-12)  # what is let go is what only rounding decides
    if cells == favoured:
        assert found.gap == 0 and found.dropped == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 2, 1]),
    st.integers(1, 7),
    st.integers(0, 12),
)
def test_the_bound_holds_over_every_part_of_the_region(n, seed, decimals, k, depth):
    generator = np.random.default_rng(seed)
    relevant = generator.random((4, 15)) < 0.3
    relevant[:, 3] |= ~relevant.any(axis=1)
    values = generator.random((4, 15, n))
    values = values if decimals is None else np.round(values, decimals)
    values[:, 9] = values[:, 2]
    padded = pad_candidates(values, relevant, k=k)
    corners = vertices(generator.uniform(0.3, 1, n), [str(generator.integers(0, 3)) for _ in range(n)])
    pairs = OpenPairs(padded, corners)
    node = pairs.root
    for generation in range(depth + 1):
        points = np.concatenate([random_coordinates(60, n, generator), np.eye(n), np.full((1, n), 1 / n)])
        for point in points @ node.simplex:
            assert mean_average_precision(padded, point @ corners) <= node.bound + 1e-12
        split = pairs.split(node)
        if not split:
            break
        for child in split:
            assert child.bound <= node.bound and child.hope <= child.bound + 1e-12
            assert mean_average_precision(padded, child.simplex.mean(axis=0) @ corners) <= child.hope + 1e-12
        volumes = [abs(np.linalg.det(part.simplex)) for part in (node, *split)]
        assert volumes[0] == pytest.approx(volumes[1] + volumes[2], rel=1e-6)
        node = split[int(generator.integers(0, 2))]


def test_a_decided_part_has_one_value():
    generator = np.random.default_rng(2)
    relevant = np.zeros((5, 12), dtype=bool)
    relevant[:, [1, 4]] = True
    padded, corners = pad_candidates(generator.random((5, 12, 3)), relevant), np.eye(3)
    pairs = OpenPairs(padded, corners)
    waiting, decided = [pairs.root], 0
    while waiting and decided < 25:
        node = waiting.pop(0)
        split = pairs.split(node)
        waiting += split
        if not split and np.linalg.norm(node.simplex[0] - node.simplex[1]) > 1e-6:
            decided += 1
            for point in random_coordinates(20, 3, generator) @ node.simplex:
                assert mean_average_precision(padded, point) == pytest.approx(node.bound, abs=1e-12)
    assert decided == 25


def hard_scene():
    """Five components that rise together, as layers do, 12 queries with 30 candidates."""
    generator = np.random.default_rng(6)
    values = 0.6 + 0.08 * generator.normal(size=(12, 30, 1)) + 0.05 * generator.normal(size=(12, 30, 5))
    relevant = np.zeros((12, 30), dtype=bool)
    relevant[:, :2] = True
    return pad_candidates(values, relevant)


def test_five_components_are_proven():
    found = certify([hard_scene()], [np.eye(5)], seconds=120, max_nodes=40_000)
    assert found.gap == 0
    sampled = max(
        mean_average_precision(hard_scene(), point)
        for point in random_coordinates(3000, 5, np.random.default_rng(0))
    )
    assert sampled <= found.best + 1e-12


def test_memory_is_bounded_and_what_is_dropped_still_counts():
    padded = hard_scene()
    proven = certify([padded], [np.eye(5)], seconds=120, max_nodes=40_000)
    small = certify([padded], [np.eye(5)], seconds=120, max_nodes=5000, memory_bytes=60_000)
    assert small.bound >= proven.bound - 1e-12 and small.best <= proven.best + 1e-12
    assert small.dropped > small.best and small.bound >= small.dropped


def test_several_combinations_share_one_search():
    poor = pad_candidates([[[0.1, 0.2], [0.5, 0.5]]], [[True, False]], k=1)
    good = pad_candidates([[[0.9, 0.1], [0.5, 0.5]]], [[True, False]], k=1)
    found = certify([poor, good], [np.eye(2), np.eye(2)], seconds=5)
    assert (found.best, found.bound, found.combination) == (1.0, 1.0, 1)


def test_out_of_time_the_bound_still_holds():
    generator = np.random.default_rng(1)
    relevant = np.zeros((10, 40), dtype=bool)
    relevant[:, :2] = True
    padded = pad_candidates(generator.random((10, 40, 6)), relevant)
    short = certify([padded], [np.eye(6)], seconds=60, max_nodes=20)
    longer = certify([padded], [np.eye(6)], seconds=60, max_nodes=2000)
    assert short.bound >= longer.bound >= longer.best >= short.best and longer.gap > 0
