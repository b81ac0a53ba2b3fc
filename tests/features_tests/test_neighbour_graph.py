"""The neighbour graph by half of its products against all canonical scores, one after the other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from competition.errors import Top7Error
from features.search import factors as factors_module
from features.search import neighbour_graph as neighbours
from features.search import symmetric_graph as symmetric
from features.search.contenders import room
from features.search.factors import BFLOAT16, FLOAT32, Factors, chosen, factors_of
from features.search.neighbour_graph import neighbour_graph
from features.search.row_views import RowStack
from features.search.similarity import fused_score, pair_scores
from features.search.symmetric_graph import SymmetricGraph
from features.search.threads import threads

KINDS = (BFLOAT16, FLOAT32)


def naive_graph(gallery, weights, k, excluded):
    """Every row's k best others by all canonical scores."""
    total = len(gallery[0])
    rows, scores = np.full((total, k), -1, np.int32), np.full((total, k), -np.inf)
    for i in np.flatnonzero(~excluded):
        values = fused_score([part[i] for part in gallery], gallery, weights)
        others = np.flatnonzero(~excluded & (np.arange(total) != i))
        best = others[np.lexsort((others, -values[others]))][:k]
        rows[i, : len(best)], scores[i, : len(best)] = best, values[best]
    return rows, scores


@pytest.fixture
def small(monkeypatch):
    """Tiles, windows and samples so small that a few hundred rows make many of them."""
    monkeypatch.setattr(symmetric, "TILE_ROWS", 24)
    monkeypatch.setattr(symmetric, "SAMPLED_ROWS", 40)
    monkeypatch.setattr(symmetric, "STRIPS", 50)
    monkeypatch.setattr(symmetric, "BEST_ROWS", 20)
    monkeypatch.setattr(neighbours, "LARGE", 0)


def windows_of(total, size=60):
    return [range(total)[start : start + size] for start in range(0, total, size)]


def graph_of(gallery, weights, k, excluded, kind, spread=map, size=60):
    """All windows of the symmetric graph, one after the other."""
    factors = factors_of(gallery, weights, excluded, kind)
    windows = windows_of(len(excluded), size)
    graph = SymmetricGraph(factors, k, windows, spread)
    parts = [graph.window(window.start, window.stop) for window in windows]
    return tuple(np.concatenate(part) for part in zip(*parts))


def same(found, expected):
    assert found[0].dtype == np.int32 and found[1].dtype == np.float64
    assert (found[0] == expected[0]).all()
    assert (found[1] == expected[1]).all()  # to the last bit; 0.0 and -0.0 are one number


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(total, dimension, seed):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((total // 8, dimension))
    return unit(centres[rng.integers(0, len(centres), total)] + 0.6 * rng.standard_normal((total, dimension)))


def duplicates(total, dimension, seed):
    rows = clustered(total, dimension, seed)
    rows[50:250] = rows[3]  # more than there is room for
    rows[260:300] = rows[4]
    return rows


def lattice(total, dimension, seed):
    return np.random.default_rng(seed).integers(-1, 2, (total, dimension)).astype(np.float32)


def of_all_lengths(total, dimension, seed):
    rows = clustered(total, dimension, seed) - np.float32(0.1)
    return rows * np.float32(10) ** np.random.default_rng(seed).uniform(-3, 3, (total, 1)).astype(np.float32)


def sparse(total, dimension, seed):
    rows = np.maximum(np.random.default_rng(seed).standard_normal((total, dimension)) - 2, 0)
    return rows.astype(np.float32)  # most scores are 0, many rows too


GALLERIES = {
    "clustered": lambda n: [clustered(n, 48, 1)],
    "odd dimensions, half precision": lambda n: [clustered(n, 37, 2).astype(np.float16)],
    "float64": lambda n: [clustered(n, 20, 3).astype(np.float64) * 1.1],
    "duplicates": lambda n: [duplicates(n, 32, 4)],
    "ties": lambda n: [lattice(n, 3, 5)],
    "of all lengths": lambda n: [of_all_lengths(n, 24, 6)],
    "sparse": lambda n: [sparse(n, 16, 7)],
    "zeros": lambda n: [np.zeros((n, 5), np.float32)],
    "alike": lambda n: [unit(clustered(n, 40, 11) + np.float32(2))],
    "several components": lambda n: [clustered(n, 16, 8), duplicates(n, 33, 9), of_all_lengths(n, 7, 10)],
}
WEIGHTS = {"several components": ([0.2, 0.5, 0.3], [0.7, 0.0, -0.4], [0.0, 0.0, 0.0])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GALLERIES)
@pytest.mark.parametrize("k", [1, 9])
def test_the_graph_equals_all_canonical_scores(name, kind, k, small):
    total = 331
    gallery = GALLERIES[name](total)
    for weights in WEIGHTS.get(name, ([1.0], [0.37])):
        for share in (0.0, 0.2):
            excluded = np.random.default_rng(0).random(total) < share
            found = graph_of(gallery, weights, k, excluded, kind)
            same(found, naive_graph(gallery, weights, k, excluded))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total, k", [(1, 3), (5, 7), (70, 69), (70, 200)])
def test_there_may_be_fewer_others_than_asked_for(total, k, kind, small):
    gallery = [clustered(max(total, 8), 6, 0)[:total]]
    for excluded in (np.zeros(total, bool), np.arange(total) % 2 == 0, np.ones(total, bool)):
        same(graph_of(gallery, [1.0], k, excluded, kind), naive_graph(gallery, [1.0], k, excluded))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_graph_equals_all_canonical_scores_whatever_the_rows(data):
    total = data.draw(st.integers(1, 60))
    finite = st.floats(-8, 8, width=16, allow_subnormal=True)
    gallery = [data.draw(arrays(np.float32, (total, d), elements=finite, fill=finite)) for d in (2, 3)]
    weights = data.draw(st.lists(st.sampled_from([0.0, 1.0, 0.3, -0.5]), min_size=2, max_size=2))
    excluded = data.draw(arrays(bool, total))
    k, kind = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(KINDS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(symmetric, "TILE_ROWS", 7)
        patched.setattr(symmetric, "SAMPLED_ROWS", data.draw(st.sampled_from([1, 6, 100])))
        found = graph_of(gallery, weights, k, excluded, kind, size=14)
    same(found, naive_graph(gallery, weights, k, excluded))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_nothing(kind, small):
    gallery, excluded = [duplicates(400, 16, 1)], np.arange(400) == 7
    expected = graph_of(gallery, [1.0], 5, excluded, kind)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with threads() as spread:
            same(graph_of(gallery, [1.0], 5, excluded, kind, spread), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("asked", [(2, 3, 4, 5), (0, 3, 5), (5,), (1, 2, 5)])
def test_windows_that_an_earlier_run_finished_are_not_asked_for(asked, small):
    gallery, excluded = [clustered(331, 20, 1)], np.zeros(331, bool)
    rows, scores = naive_graph(gallery, [1.0], 6, excluded)
    windows = windows_of(331)
    graph = SymmetricGraph(factors_of(gallery, [1.0], excluded, BFLOAT16), 6, windows)
    for window in (windows[number] for number in asked):
        found = graph.window(window.start, window.stop)
        same(found, (rows[window.start : window.stop], scores[window.start : window.stop]))


def test_half_of_the_products_are_made(small, monkeypatch):
    made = []
    keys = Factors.keys
    monkeypatch.setattr(symmetric, "TILE_ROWS", 16)
    monkeypatch.setattr(Factors, "keys", lambda self, a, b: made.append(len(a) * len(b)) or keys(self, a, b))
    graph_of([clustered(960, 8, 1)], [1.0], 3, np.zeros(960, bool), FLOAT32, size=48)
    assert sum(made) < 0.51 * 960**2 + 960 * 40  # the sample's


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_run_goes_on_to_the_same_bytes(small, monkeypatch, tmp_path):
    gallery = [duplicates(331, 12, 1), clustered(331, 9, 2)]
    arguments = dict(excluded=np.arange(331) % 50 == 9, identity=["a", "b"])
    monkeypatch.setattr(neighbours, "WINDOW_ROWS", 40)
    monkeypatch.setattr(neighbours, "LARGE", 1000)  # by the exact search, which looks at every pair twice
    neighbour_graph(gallery, [0.3, 0.7], 4, folder=tmp_path / "search", **arguments)
    monkeypatch.setattr(neighbours, "LARGE", 0)
    neighbour_graph(gallery, [0.3, 0.7], 4, folder=tmp_path / "whole", **arguments)
    whole, asked = SymmetricGraph.window, []

    def dying(self, start, stop):
        asked.append(start)
        if start in dying_at:
            dying_at.remove(start)
            raise KeyboardInterrupt
        return whole(self, start, stop)

    monkeypatch.setattr(SymmetricGraph, "window", dying)
    dying_at = [80, 200]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            neighbour_graph(gallery, [0.3, 0.7], 4, folder=tmp_path / "killed", **arguments)
    neighbour_graph(gallery, [0.3, 0.7], 4, folder=tmp_path / "killed", **arguments)
    assert asked == [0, 40, 80, 80, 120, 160, 200, 200, 240, 280, 320]
    expected = files_of(tmp_path / "search")
    assert len(expected) == 3
    assert files_of(tmp_path / "whole") == expected and files_of(tmp_path / "killed") == expected


def test_the_graph_of_stacked_rows(small, monkeypatch):
    monkeypatch.setattr(neighbours, "WINDOW_ROWS", 30)
    stacked = [RowStack([clustered(90, 7, 1), clustered(40, 7, 2)])]
    found = neighbour_graph(stacked, [1.0], 4)
    same(found, naive_graph([stacked[0][:]], [1.0], 4, np.zeros(130, bool)))


@pytest.mark.parametrize("fast", [True, False])
def test_a_cluster_shares_out_the_exact_search(fast, small, monkeypatch, caplog):
    gallery, made = [clustered(130, 7, 1)], []
    make = SymmetricGraph.__init__
    monkeypatch.setattr(
        SymmetricGraph, "__init__", lambda self, *more: (made.append(1), make(self, *more))[1]
    )
    monkeypatch.setattr(neighbours, "shared_out", lambda total: not fast)
    with caplog.at_level("INFO", "top7"):
        found = neighbour_graph(gallery, [1.0], 4, progress=True)
    same(found, naive_graph(gallery, [1.0], 4, np.zeros(130, bool)))
    assert len(made) == fast
    assert ("about" if fast else "by the cluster's workers") in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_products_lie_within_their_bounds(kind, data):
    dimension = data.draw(st.sampled_from([1, 2, 5, 64]))
    finite = st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=True)
    rows = data.draw(arrays(np.float32, (6, dimension), elements=finite, fill=finite))
    weight = data.draw(st.sampled_from([1.0, 0.3, -2.5]))
    factors = factors_of([rows], [weight], np.zeros(6, bool), kind)
    read = factors.read(slice(0, 6))
    keys = factors.keys(factors.left(read), factors.right(read))
    values = factors.values(keys)
    own, other = map(np.ravel, np.indices((6, 6)))
    canonical = pair_scores([rows], [weight], own, other).reshape(6, 6)
    errors = factors.errors(factors.measures(0, 6))[:, None]
    assert (np.abs(values + factors.level - canonical) <= errors + factors.spacing * np.abs(values)).all()
    assert (factors.floors(values, errors) <= canonical).all()
    thresholds = factors.thresholds(canonical, errors)
    assert (values >= thresholds).all()
    assert (keys >= factors.threshold_keys(thresholds)).all()


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20), st.sampled_from(KINDS))
def test_thresholds_are_rounded_down_a_little(numbers, kind):
    numbers = np.array(numbers)
    factors = factors_of([np.ones((1, 1))], [0.0], np.zeros(1, bool), kind)
    found = factors.thresholds(numbers, np.zeros(len(numbers)))
    assert (found <= numbers).all() and (found >= numbers - np.abs(numbers) * 0.03 - 2e-37).all()
    if kind == BFLOAT16:
        assert (torch.from_numpy(found).bfloat16().float().numpy() == found).all()


@pytest.mark.parametrize("numbers", [[-np.inf, -3.0, -1e-30, -0.0, 0.0, 1e-30, 2.0, 2.015625, np.inf]])
def test_keys_have_the_order_of_their_products(numbers):
    factors = factors_of([np.ones((1, 1))], [1.0], np.zeros(1, bool), BFLOAT16)
    numbers = torch.tensor(numbers).bfloat16().float().numpy()
    keys = factors_module._turned(torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy().copy())
    assert (factors.values(keys) == numbers).all()
    assert ((keys[:, None] >= factors.threshold_keys(numbers)) == (numbers[:, None] >= numbers)).all()


class Clock:
    """Stands for the module `time`: a product takes a second, those of the slow kind two."""

    def __init__(self, monkeypatch, slow, change=0):
        self.now, keys = 0.0, Factors.keys

        def timed(factors, left, right):
            self.now += 2 if factors.kind == slow else 1
            found = keys(factors, left, right)
            return found + np.int16(change) if factors.kind == BFLOAT16 else found

        monkeypatch.setattr(Factors, "keys", timed)
        monkeypatch.setattr(factors_module, "time", self)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("slow", KINDS)
def test_the_faster_products_are_chosen(slow, monkeypatch):
    Clock(monkeypatch, slow)
    factors, rate = chosen([clustered(300, 64, 1)] * 2, np.array([0.0, 1.0]), np.zeros(300, bool))
    assert factors.kind != slow and len(factors.components) == 1
    assert rate == 2 * 300 * 300 * 64


def test_coarse_products_are_not_used(monkeypatch):
    Clock(monkeypatch, FLOAT32, change=40)
    factors, rate = chosen([clustered(300, 64, 1)], np.ones(1), np.zeros(300, bool))
    assert factors.kind == FLOAT32 and rate == 300 * 300 * 64


def test_rows_that_are_not_finite_are_named(small):
    rows = clustered(100, 8, 1)
    rows[37, 2] = np.nan
    with (
        warnings.catch_warnings(),
        pytest.raises(Top7Error, match="component 0 of the gallery: row 37 is not finite"),
    ):
        warnings.simplefilter("ignore")
        neighbour_graph([rows], [1.0], 3)
    rows[37] = 1e30
    with pytest.raises(Top7Error, match="row 37 is too long"):
        neighbour_graph([rows], [1.0], 3)


def test_products_of_lower_precision_are_refused(small):
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(Top7Error, match="set it to 'highest'"):
            neighbour_graph([clustered(100, 8, 1)], [1.0], 3)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_memory_a_row():
    assert 8 * room(20) * 1_000_000 < 1.2e9  # bytes for a million images
