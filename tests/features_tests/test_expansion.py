"""Query expansion, database-side augmentation and neighbour graphs against loops written out here."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from competition.messages import duration
from features.ranking.steps.expand import WEIGHTINGS, expand
from features.search.exact_search import search
from features.search.neighbour_graph import neighbour_graph, without_self
from features.search.similarity import component_similarity


def unit_rows(count, dimension, seed):
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_weight(kind, place, count, similarity, alpha):
    return {
        "average": 1.0,
        "weighted": (count - place) / (count + 1),
        "alpha": max(similarity, 0.0) ** alpha,
    }[kind]


@pytest.mark.parametrize("kind", WEIGHTINGS)
@pytest.mark.parametrize("count", [0, 1, 4, 30])
def test_expansion_equals_a_loop(kind, count):
    gallery, queries = [unit_rows(9, d, d) for d in (5, 8)], [unit_rows(4, d, d + 1) for d in (5, 8)]
    before = [part.copy() for part in gallery + queries]
    ranks, scores = search(queries, gallery, [0.4, 0.6], max(count, 1))
    found = expand(queries, gallery, ranks, scores, neighbours=count, kind=kind, alpha=2.5)
    for layer in range(2):
        for query in range(4):
            total = queries[layer][query].astype(float)
            for place in range(min(count, 9)):
                weight = naive_weight(kind, place, count, scores[query, place], 2.5)
                total = total + weight * gallery[layer][ranks[query, place]].astype(float)
            assert found[layer].dtype == np.float32
            assert found[layer][query] == pytest.approx(total / np.linalg.norm(total), abs=1e-7)
    assert all((a == b).all() for a, b in zip(before, gallery + queries))


def test_an_expansion_that_finds_only_the_query_itself_changes_nothing():
    query = unit_rows(1, 16, 0)
    for gallery in (query, np.concatenate([query] * 5)):
        ranks, scores = search([query], [gallery], [1.0], 7)
        for kind in WEIGHTINGS:
            (found,) = expand([query], [gallery], ranks, scores, neighbours=7, kind=kind)
            assert found == pytest.approx(query, abs=1e-7)
            assert (search([found], [gallery], [1.0], 7)[0] == ranks).all()


def test_zero_queries_stay_zero_and_excluded_rows_add_nothing():
    gallery = unit_rows(6, 4, 3)
    gallery[2] = 0
    queries = np.concatenate([np.zeros((1, 4), np.float32), unit_rows(1, 4, 5)])
    ranks, scores = search([queries], [gallery], [1.0], 9, excluded=~gallery.any(axis=1))
    (found,) = expand([queries], [gallery], ranks, scores, neighbours=9)
    assert (found[0] == 0).all()
    total = queries[1].astype(float) + gallery.astype(float).sum(0)
    assert found[1] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def naive_graph(gallery, weights, k, excluded):
    total = len(gallery[0])
    rows, scores = np.full((total, k), -1), np.full((total, k), -np.inf)
    for i in range(total):
        if excluded[i]:
            continue
        others = [
            (-sum(w * component_similarity(g[i], g[j : j + 1])[0] for g, w in zip(gallery, weights)), j)
            for j in range(total)
            if j != i and not excluded[j]
        ]
        for place, (negative, j) in enumerate(sorted(others)[:k]):
            rows[i, place], scores[i, place] = j, -negative
    return rows, scores


@pytest.mark.parametrize("total, k", [(1, 3), (5, 7), (40, 3), (40, 39)])
def test_the_graph_equals_a_loop(total, k, tmp_path, monkeypatch):
    monkeypatch.setattr("features.search.neighbour_graph.WINDOW_ROWS", 7)
    gallery = [unit_rows(total, d, d) for d in (6, 11)]
    excluded = np.zeros(total, bool)
    if total == 40:
        for part in gallery:
            part[10:30] = part[3]  # more duplicates than neighbours
            part[5] = 0
        excluded[5] = True
    expected = naive_graph(gallery, [0.3, 0.7], k, excluded)
    for folder in (None, tmp_path, tmp_path):  # in memory, computed, opened again
        for threads in (1, 2):
            with threadpool_limits(threads):
                found = neighbour_graph(gallery, [0.3, 0.7], k, excluded=excluded, folder=folder)
            assert found[0].dtype == np.int32 and found[1].dtype == np.float64
            assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
    kept = sorted(path.suffixes for path in tmp_path.iterdir())
    assert kept == [[".json"], [".rows", ".npy"], [".scores", ".npy"]]


def test_another_gallery_or_weight_gets_its_own_graph(tmp_path):
    gallery = unit_rows(9, 4, 0)
    neighbour_graph([gallery], [1.0], 2, folder=tmp_path)
    neighbour_graph([gallery], [0.5], 2, folder=tmp_path)
    neighbour_graph([gallery[::-1].copy()], [1.0], 2, folder=tmp_path)
    neighbour_graph([gallery], [1.0], 2, folder=tmp_path, excluded=np.arange(9) == 4)
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_own_rows_are_taken_out():
    ranks = np.array([[0, 5, 6], [7, 8, 9], [4, 2, 3]])
    rows, scores = without_self(ranks, ranks / 10, 0)
    assert rows.tolist() == [[5, 6], [7, 8], [4, 3]] and scores.tolist() == [
        [0.5, 0.6],
        [0.7, 0.8],
        [0.4, 0.3],
    ]


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_augmentation_uses_each_images_own_neighbours(kind):
    gallery = [unit_rows(12, d, d) for d in (6, 11)]
    for part in gallery:
        part[4] = 0
    before = [part.copy() for part in gallery]
    excluded = np.arange(12) == 4
    rows, scores = neighbour_graph(gallery, [0.5, 0.5], 3, excluded=excluded)
    for layer, found in enumerate(expand(gallery, gallery, rows, scores, neighbours=3, kind=kind)):
        for i in range(12):
            total = gallery[layer][i].astype(float)
            for place in range(3):
                if not excluded[i]:
                    total = total + (
                        naive_weight(kind, place, 3, scores[i, place], 3.0)
                        * gallery[layer][rows[i, place]].astype(float)
                    )
            expected = total / np.linalg.norm(total) if not excluded[i] else total
            assert found[i] == pytest.approx(expected, abs=1e-7)
        assert (gallery[layer] == before[layer]).all()


def test_durations_are_readable():
    assert [duration(s) for s in (4, 600, 6120)] == ["4 s", "10 min", "1.7 h"]
