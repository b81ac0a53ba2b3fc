"""k-reciprocal re-ranking, diffusion, cascades and projections against naive references written here."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from competition.errors import Top7Error
from features.ranking.principal_axes import projected
from features.ranking.steps.diffuse import diffused, transition
from features.ranking.steps.reciprocal import jaccard_distances, learn_codes, mixed_scores, query_code
from features.ranking.steps.znormalise import learn_znormalisation
from features.search.exact_search import search
from features.search.neighbour_graph import neighbour_graph
from features.search.similarity import component_similarity
from tests.features_tests.ranking_references import (
    all_pairs,
    clustered,
    learn_whitening,
    naive_diffusion,
    naive_jaccard,
    rank,
    ranked_with_self_first,
    zhong,
)


@pytest.mark.parametrize("k1, k2", [(1, 1), (5, 1), (6, 3), (20, 6)])
def test_codes_of_a_graph_equal_the_papers(k1, k2):
    rows = clustered(60, 12, 3)
    similarities = all_pairs(rows)
    graph, scores = neighbour_graph([rows], [1.0], k1)
    codes = learn_codes(graph, scores, lambda i, j: similarities[i, j], k1, k2)
    single, averaged = zhong(similarities, k1, k2)
    assert codes.single.toarray() == pytest.approx(single, abs=1e-14)
    assert codes.averaged.toarray() == pytest.approx(averaged, abs=1e-14)
    for i in range(0, 60, 7):
        code = codes.averaged[i]
        shared, jaccard = jaccard_distances(codes, code.indices, code.data)
        expected = np.array([naive_jaccard(averaged[i], other) for other in averaged])
        assert expected[shared] == pytest.approx(jaccard, abs=1e-13)
        assert set(np.flatnonzero(expected < 1)) <= set(shared.tolist())


def test_a_query_beside_the_gallery():
    rows, query = clustered(50, 8, 5), clustered(1, 8, 6)[0]
    similarities, own = all_pairs(rows), component_similarity(query, rows)
    k1, k2 = 8, 4
    graph, scores = neighbour_graph([rows], [1.0], k1)
    codes = learn_codes(graph, scores, lambda i, j: similarities[i, j], k1, k2)
    order = np.lexsort((np.arange(50), -own))[:k1]
    columns, values = query_code(codes, order, own[order], lambda found: own[found])

    initial, (single, _) = ranked_with_self_first(similarities), zhong(similarities, k1, k2)
    members = {j for j in order if own[j] >= similarities[j, initial[j, k1]]}
    grown = set(members)
    for j in members:
        half = initial[j, : k1 // 2 + 1]
        theirs = {c for c in half if j in initial[c, : k1 // 2 + 1]}
        if len(theirs & members) > 2 / 3 * len(theirs):
            grown |= theirs
    code = np.zeros(50)
    for j in grown:
        code[j] = np.exp(own[j] - 1)
    code /= code.sum() + 1
    code = (code + single[order[: k2 - 1]].sum(axis=0)) / k2
    expected = np.zeros(50)
    expected[columns] = values
    assert code == pytest.approx(expected, abs=1e-14)


def test_mixed_distance_by_hand():
    assert mixed_scores(np.array([0.2, 1.0]), np.array([0.5, 0.9]), 0.3) == pytest.approx(
        [-(0.14 + 0.15), -(0.7 + 0.03)]
    )


def test_codes_of_awkward_galleries():
    for rows in (clustered(1, 4, 0), np.repeat(clustered(1, 4, 0), 9, axis=0), clustered(3, 4, 0)):
        similarities = all_pairs(rows)
        graph, scores = neighbour_graph([rows], [1.0], 5)
        codes = learn_codes(graph, scores, lambda i, j: similarities[i, j], 5, 3)
        assert np.asarray(codes.averaged.sum(axis=1)).ravel() == pytest.approx(np.ones(len(rows)))
    excluded = np.array([False, True, False])
    graph, scores = neighbour_graph([rows], [1.0], 5, excluded=excluded)
    codes = learn_codes(graph, scores, lambda i, j: similarities[i, j], 5, 3, excluded=excluded)
    assert codes.single.toarray()[1].sum() == 0 and codes.averaged.toarray()[:, 1].sum() == 0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_diffusion_solves_the_papers_system(alpha):
    rows, query = clustered(70, 10, 1), clustered(1, 10, 2)[0]
    similarities, own = all_pairs(rows), component_similarity(query, rows)
    order = np.lexsort((np.arange(70), -own))[:6]
    graph, scores = neighbour_graph([rows], [1.0], 9)
    found = diffused(
        transition(graph, scores, neighbours=9),
        order,
        own[order],
        alpha=alpha,
        tolerance=1e-12,
        iterations=500,
    )
    expected = naive_diffusion(similarities, 9, order, own[order], alpha, 3.0)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_diffusion_of_awkward_galleries():
    for rows in (clustered(1, 4, 0), np.zeros((3, 4), np.float32), np.repeat(clustered(1, 4, 0), 9, axis=0)):
        graph, scores = neighbour_graph([rows], [1.0], 4)
        found = diffused(transition(graph, scores, neighbours=4), np.array([0, -1]), np.array([0.5, -np.inf]))
        assert np.isfinite(found).all() and found[0] >= 0.125


def test_a_cascade_equals_sorting_what_each_stage_keeps():
    gallery, queries = [clustered(80, d, d) for d in (5, 9)], [clustered(6, d, d + 1) for d in (5, 9)]
    stages = [([1.0, 0.0], 30), ([0.5, 0.5], 10), ([0.0, 1.0], 7)]
    step = {"step": "cascade", "stages": [{"weights": weights, "keep": keep} for weights, keep in stages]}
    ranks, scores = rank(queries, gallery, [0.5, 0.5], [step], 7)
    for query in range(6):
        single = [component_similarity(q[query], g) for q, g in zip(queries, gallery)]
        kept = list(range(80))
        for weights, keep in stages:
            fused = sum(w * s for w, s in zip(weights, single))
            kept = sorted(kept, key=lambda row: (-fused[row], row))[:keep]
        assert ranks[query].tolist() == kept and scores[query].tolist() == fused[kept].tolist()
    assert (rank(queries, [g[:3] for g in gallery], [0.5, 0.5], [step], 7)[0][:, 3:] == -1).all()


def test_znormalisation_equals_numpy():
    rows = clustered(5000, 7, 0)
    rows[:, 3] = 0.25  # never varies
    excluded = np.arange(5000) % 3 == 0
    kept = rows[~excluded].astype(float)
    expected = (rows - kept.mean(0)) / np.where(np.arange(7) == 3, np.inf, kept.std(0))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert projected(rows, learn_znormalisation(rows, excluded)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("count", [30, 400])  # fewer rows than dimensions: the dual form
@pytest.mark.parametrize("exponent, shrinkage", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (1.0, 0.4)])
def test_whitening_equals_the_singular_value_decomposition(count, exponent, shrinkage):
    rows, queries = clustered(count, 40, 1), clustered(5, 40, 2)
    projection = learn_whitening(rows, 12, exponent=exponent, shrinkage=shrinkage)
    mean = rows.astype(float).mean(0)
    _, singular, axes = np.linalg.svd(rows - mean, full_matrices=False)
    variances = singular**2 / count
    rank = min(count - 1, 40)
    shrunk = (1 - shrinkage) * variances[:12] + shrinkage * variances[:rank].mean()
    expected = (queries - mean) @ axes[:12].T * shrunk ** (-exponent / 2)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = projected(queries, projection).astype(float)
    signs = np.sign((found * expected).sum(0))
    assert found == pytest.approx(expected * signs, abs=2e-6)
    if exponent == 1 and shrinkage == 0 and count == 400:
        white = (rows - mean) @ projection.matrix
        assert white.T @ white / count == pytest.approx(np.eye(12), abs=1e-8)


def test_projections_do_not_depend_on_batch_or_threads():
    rows = clustered(700, 33, 4)
    rows[9] = 0
    projection = learn_whitening(rows, 20, excluded=~rows.any(axis=1))
    whole = projected(rows, projection)
    assert (whole[9] == 0).all() and whole.dtype == np.float32
    for threads in (1, 2):
        with threadpool_limits(threads):
            again = learn_whitening(rows, 20, excluded=~rows.any(axis=1))
            assert (again.matrix == projection.matrix).all()
            assert (
                np.concatenate([projected(rows[:123], again), projected(rows[123:], again)]) == whole
            ).all()


def test_whitening_a_sample_and_its_errors():
    rows = clustered(300, 6, 0)
    assert (
        learn_whitening(rows, 3, samples=50, seed=1).matrix
        == learn_whitening(rows, 3, samples=50, seed=1).matrix
    ).all()
    assert learn_whitening(rows[:4], 100).matrix.shape == (6, 3)  # no more than the rank
    with pytest.raises(Top7Error, match="at least 2 readable rows to learn from, found 1"):
        learn_whitening(rows[:1], 3)
    with pytest.raises(Top7Error, match="all equal"):
        learn_whitening(np.repeat(rows[:1], 5, axis=0), 3)
    with pytest.raises(Top7Error, match="5 dimensions for a projection learnt on 6"):
        projected(rows[:, :5], learn_whitening(rows, 3))


def test_whitened_search_ranks_readable_rows_only():
    rows = clustered(40, 8, 0)
    rows[5] = 0
    excluded = np.arange(40) == 5
    white = projected(rows, learn_whitening(rows, 4, excluded=excluded))
    ranks, _ = search([white[:3]], [white], [1.0], 39, excluded=excluded)
    assert sorted(ranks[0].tolist()) == [row for row in range(40) if row != 5]
