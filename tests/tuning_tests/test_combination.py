"""A combination from dumps on disk against the naive way: S, candidates, cached and streamed alike."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from competition.metrics import query_figures
from features.components import Component
from features.dumps import Dump
from features.search import sharding
from tuning import candidates
from tuning.combination import make_combination, mean_similarities
from tuning.named_points import PAPER_ROWS, named_points, named_weights, paper_weights
from tuning.region import random_coordinates
from tuning.report import ratio_form

DIMENSIONS = (5, 8, 12)
K = 7


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dump(folder, name, rows, unreadable=()):
    rows = rows.copy()
    mask = np.zeros(len(rows), dtype=bool)
    mask[list(unreadable)] = True
    rows[mask] = 0
    path = folder / f"{name}.npy"
    np.save(path, rows)
    path.with_suffix(".json").write_text("{}")
    return Dump(
        path,
        tuple(f"{name}{i}" for i in range(len(rows))),
        np.load(path, mmap_mode="r"),
        np.ones(len(rows), np.float32),
        mask,
        {},
        {},
    )


@pytest.fixture
def scenery(tmp_path):
    """Three layers of one chain, 400 gallery rows with duplicates, 9 queries; rows 3 and 50 unreadable."""
    generator = np.random.default_rng(0)
    latent_g, latent_q = generator.random((400, 6)), generator.random((9, 6))
    latent_g[200:220] = latent_g[100:120]
    components, queries, gallery = [], [], []
    for number, dimension in enumerate(DIMENSIONS):
        basis = generator.random((6, dimension))
        g = latent_g @ basis + 0.2 * generator.random((400, dimension))
        g[200:220] = g[100:120]
        q = latent_q @ basis + 0.2 * generator.random((9, dimension))
        components.append(Component(f"net/{number}/fcrow", "net/fcrow", "net", number, "fcrow"))
        gallery.append(dump(tmp_path, f"g{number}", unit(g), unreadable=(3, 50)))
        queries.append(dump(tmp_path, f"q{number}", unit(q), unreadable=(8,)))
    relevant = [np.sort(generator.choice(400, 3, replace=False)) for _ in range(9)]
    public = np.array([True] * 6 + [False] * 3)
    return components, queries, gallery, relevant, public


def naive_precisions(queries, gallery, weights, relevant):
    """Every similarity in float64, one sort by (-score, row), unreadable rows left out."""
    scores = sum(
        w
        * (q.descriptors[:, None, :].astype(np.float64) * g.descriptors[None].astype(np.float64)).sum(axis=-1)
        for w, q, g in zip(weights, queries, gallery)
        if w != 0
    )
    scores[:, gallery[0].unreadable] = -np.inf
    ranks = np.stack([np.lexsort((np.arange(len(line)), -line))[:K] for line in scores])
    return query_figures(ranks, relevant, K)


def test_s_is_the_mean_cosine_over_public_readable_queries_and_readable_rows(scenery):
    components, queries, gallery, relevant, public = scenery
    found = mean_similarities(queries, gallery, public)
    rows = ~gallery[0].unreadable
    for value, q, g in zip(found, queries, gallery):
        expected = (q.descriptors[:6].astype(np.float64) @ g.descriptors[rows].astype(np.float64).T).mean()
        assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("region", ["similarity", "distance", "simplex"])
def test_every_weight_of_the_region_gives_the_naive_figure(scenery, tmp_path, region):
    components, queries, gallery, relevant, public = scenery
    made = make_combination(components, queries, gallery, relevant, public, K, region, tmp_path / "cache")
    again = make_combination(components, queries, gallery, relevant, public, K, region, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1
    for coordinates in [*random_coordinates(100, 3, np.random.default_rng(1)), *np.eye(3)]:
        weights = coordinates @ made.corners
        expected = naive_precisions(queries, gallery, weights, relevant)
        np.testing.assert_allclose(made.average_precisions(weights), expected, atol=1e-12)
        np.testing.assert_array_equal(again.average_precisions(weights), made.average_precisions(weights))


def test_a_region_that_prunes_badly_says_so_and_ranks_to_the_same_figures(
    scenery, monkeypatch, tmp_path, capsys
):
    components, queries, gallery, relevant, public = scenery
    exact = make_combination(components, queries, gallery, relevant, public, K, "simplex", None)
    monkeypatch.setattr(candidates, "candidate_limit", lambda n_rows: 8)
    made = make_combination(components, queries, gallery, relevant, public, K, "simplex", tmp_path)
    assert made.padded is None and "prunes badly" in capsys.readouterr().err
    for weights in random_coordinates(20, 3, np.random.default_rng(2)):
        np.testing.assert_array_equal(made.average_precisions(weights), exact.average_precisions(weights))


def test_more_queries_than_memory_holds_at_once_come_in_passes_to_the_same_candidates(scenery, monkeypatch):
    components, queries, gallery, relevant, public = scenery
    whole = make_combination(components, queries, gallery, relevant, public, K, "simplex", None)
    monkeypatch.setattr(candidates, "PASS_BYTES", 3 * len(components) * candidates.QUERY_BYTES)
    parts = make_combination(components, queries, gallery, relevant, public, K, "simplex", None)
    np.testing.assert_array_equal(parts.padded.rows, whole.padded.rows)
    np.testing.assert_array_equal(parts.padded.similarities, whole.padded.similarities)
    monkeypatch.setattr(candidates, "SCENE_BYTES", 100)
    assert make_combination(components, queries, gallery, relevant, public, K, "simplex", None).padded is None


def test_other_dumps_or_other_queries_are_another_file(scenery, tmp_path):
    components, queries, gallery, relevant, public = scenery
    cache = tmp_path / "cache"
    make_combination(components, queries, gallery, relevant, public, K, "similarity", cache)
    make_combination(components, queries, gallery, relevant, ~public, K, "similarity", cache)
    gallery = [replace(gallery[0], descriptors=gallery[0].descriptors[::-1].copy()), *gallery[1:]]
    make_combination(components, queries, gallery, relevant, public, K, "similarity", cache)
    assert len(list(cache.glob("*.npz"))) == 3


@pytest.mark.parametrize("pattern", ["*.npz", "*.json"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-9] + bytes(9),
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:] if len(data) > 200 else data[1:],
    ],
)
def test_a_damaged_cache_is_made_anew(scenery, tmp_path, pattern, harm):
    components, queries, gallery, relevant, public = scenery
    first = make_combination(
        components, queries, gallery, relevant, public, K, "similarity", tmp_path / "cache"
    )
    file = next((tmp_path / "cache").glob(pattern))
    file.write_bytes(harm(file.read_bytes()))
    again = make_combination(
        components, queries, gallery, relevant, public, K, "similarity", tmp_path / "cache"
    )
    np.testing.assert_array_equal(again.padded.rows, first.padded.rows)


def test_named_points_are_ranked_in_full_and_flagged(scenery):
    components, queries, gallery, relevant, public = scenery
    made = make_combination(components, queries, gallery, relevant, public, K, "similarity", None)
    points = named_points(made, lambda weights: naive_precisions(queries, gallery, weights, relevant))
    found = {point.name: point for point in points}
    assert set(found) == {"equal weights", *(component.name for component in components)}
    shallow, deep = found["net/0/fcrow"], found["net/2/fcrow"]
    assert (
        not shallow.inside and deep.inside
    )  # the deepest layer alone is a vertex, the shallowest is no point of it
    for point in found.values():
        np.testing.assert_allclose(
            point.average_precisions, naive_precisions(queries, gallery, point.weights, relevant)
        )


def test_the_papers_row_is_found_for_the_five_vgg_layers_only():
    names = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
    vgg = [Component(name, "vgg16/fcrow", "vgg16", name, "fcrow") for name in names]
    row = PAPER_ROWS["WMFF Table 3 No. 6"]
    np.testing.assert_allclose(paper_weights(vgg, row), row, atol=1e-12)
    by_index = [Component(f"{i}", "vgg16/fcrow", "vgg16", i, "fcrow") for i in range(5)]
    parts = Component("p", "p", "vgg16", 4, None, 0, 10, 8, 1.0)
    np.testing.assert_allclose(paper_weights([*by_index, parts], row), [*row, 0], atol=1e-12)
    assert paper_weights(vgg[:4], row) is None
    assert "WMFF Table 3 No. 6" in named_weights(vgg)


def test_ratio_form_is_the_papers():
    assert ratio_form([0.077, 0.077, 0.385, 0.154, 0.308]) == "1 : 1 : 5 : 2 : 4"
    assert ratio_form([0, 0.25, 0.75]) == "0 : 1 : 3"


@pytest.mark.slow
def test_a_combination_made_by_a_cluster_whose_worker_dies_is_one_machines(
    scenery, dask_cluster, monkeypatch
):
    components, queries, gallery, relevant, public = scenery

    def made(region):
        return make_combination(components, queries, gallery, relevant, public, K, region, None)

    expected = {region: made(region) for region in ("similarity", "simplex")}
    monkeypatch.setattr(sharding, "SHARD_ROWS", 50)
    map_over_shards, heard = candidates.map_over_shards, []

    def killing(*arguments):
        for found in map_over_shards(*arguments):
            if not heard:
                os.kill(next(iter(dask_cluster.workers.values())).pid, 9)
            heard.append(len(found.rows))
            yield found

    monkeypatch.setattr(candidates, "map_over_shards", killing)
    with sharding.on_cluster(dask_cluster.scheduler_address):
        for region, one in expected.items():
            found = made(region)
            np.testing.assert_array_equal(found.mean_similarity, one.mean_similarity)
            np.testing.assert_array_equal(found.corners, one.corners)
            for name in vars(one.padded):
                np.testing.assert_equal(getattr(found.padded, name), getattr(one.padded, name))
    assert len(heard) >= 8
