"""A recipe's steps, alone and in order, against the same computed by hand from plain functions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from competition.errors import ConfigurationError, Top7Error
from features.ranking.principal_axes import projected
from features.ranking.state import Photos, spread
from features.ranking.steps import STEPS, TUNABLE, check_steps
from features.ranking.steps.expand import expand
from features.ranking.steps.reciprocal import pair_scores
from features.ranking.steps.znormalise import learn_znormalisation
from features.recipes.recipe import read_recipe
from features.search.exact_search import search
from features.search.neighbour_graph import neighbour_graph
from features.search.similarity import component_similarity, fused_score
from submissions.experiments.experiment import experiments
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
from tuning.step_choices import configured_steps

WEIGHTS = [0.3, 0.7]


@pytest.fixture
def data():
    gallery, queries = [clustered(60, d, 3) for d in (9, 14)], [clustered(7, d, 4) for d in (9, 14)]
    for part in gallery:
        part[11] = part[7]
        part[20] = 0
    return queries, gallery, np.arange(60) == 20


def test_no_step_is_plain_search(data):
    queries, gallery, excluded = data
    found = rank(queries, gallery, WEIGHTS, [], 7, excluded=excluded)
    expected = search(queries, gallery, WEIGHTS, 7, excluded=excluded)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()


def test_concatenation_keeps_the_fused_cosine(data):
    queries, gallery, excluded = data
    found = rank(queries, gallery, WEIGHTS, [{"step": "concatenate"}], 7, excluded=excluded)
    expected = search(queries, gallery, WEIGHTS, 7, excluded=excluded)
    assert (found[0] == expected[0]).all() and found[1] == pytest.approx(expected[1], abs=1e-14)


def test_a_road_of_steps_equals_its_functions_in_order(data):
    queries, gallery, excluded = data
    steps = [
        {"step": "concatenate"},
        {"step": "znormalise"},
        {"step": "whiten", "dim": 8, "exponent": 0.5},
        {"step": "augment", "neighbours": 2, "kind": "alpha", "alpha": 2.0},
        {"step": "expand", "neighbours": 3, "kind": "weighted"},
    ]
    found = rank(queries, gallery, WEIGHTS, steps, 5, excluded=excluded)
    roots = np.sqrt(np.array(WEIGHTS))
    q, g = (
        np.concatenate([root * part.astype(float) for root, part in zip(roots, parts)], axis=1)
        for parts in (queries, gallery)
    )
    learnt = learn_znormalisation(g, excluded)
    q, g = projected(q, learnt), projected(g, learnt)
    learnt = learn_whitening(g, 8, exponent=0.5, excluded=excluded)
    q, g = projected(q, learnt), projected(g, learnt)
    graph = neighbour_graph([g], [1.0], 2, excluded=excluded)
    (g,) = expand([g], [g], *graph, neighbours=2, kind="alpha", alpha=2.0)
    (q,) = expand([q], [g], *search([q], [g], [1.0], 3, excluded=excluded), neighbours=3, kind="weighted")
    expected = search([q], [g], [1.0], 5, excluded=excluded)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()


EVERY = {
    "concatenate": {},
    "measure": {"name": "correlation"},
    "znormalise": {},
    "whiten": {"dim": 5},
    "photo_whiten": {"dim": 5},
    "augment": {"neighbours": 3},
    "expand": {"neighbours": 2, "rounds": 2},
    "cascade": {"stages": [{"weights": [1, 0], "keep": 20}, {"weights": [1, 2], "keep": 7}]},
    "reciprocal": {"k1": 6, "k2": 3},
    "diffuse": {"neighbours": 5},
    "approximate": {"index": "hnsw", "breadth": 60},
}


def photos_of(gallery, count=3, seed=5):
    """Simulated photos of every gallery image, of zero rows too."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(gallery[0])), count)
    views = [part[rows] + 0.2 * rng.standard_normal((len(rows), part.shape[1])) for part in gallery]
    views = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in views]
    for part in views:
        part[1] = 0
    return Photos(
        tuple(views), np.stack([np.arange(len(rows)), rows], 1), np.zeros(len(rows), bool), f"seed {seed}"
    )


@pytest.mark.parametrize("name", STEPS)
def test_every_step_on_awkward_galleries(name):
    step = {"step": name, **EVERY[name]}
    one = clustered(1, 6, 0)
    galleries = {
        "one": one,
        "three": clustered(3, 6, 1),
        "duplicates": np.repeat(one, 12, axis=0),
        "with zero rows": np.concatenate([np.zeros((2, 6), np.float32), clustered(9, 6, 2)]),
    }
    queries = np.concatenate([one, np.zeros((1, 6), np.float32), clustered(2, 6, 3)])
    for label, gallery in galleries.items():
        photos = photos_of([gallery] * 2)
        if name in ("whiten", "photo_whiten") and label in ("one", "duplicates"):
            with pytest.raises(Top7Error, match="whitening"):
                rank([queries] * 2, [gallery] * 2, [0.5, 0.5], [step], 7, photos=photos)
            continue
        excluded = ~gallery.any(axis=1)
        ranks, scores = rank(
            [queries] * 2, [gallery] * 2, [0.5, 0.5], [step], 7, excluded=excluded, photos=photos
        )
        allowed = np.flatnonzero(~excluded)
        assert ranks.shape == scores.shape == (4, 7)
        for row, values in zip(ranks, scores):
            found = row[row >= 0]
            assert len(found) == min(7, len(allowed)) and len(set(found)) == len(found)
            assert set(found) <= set(allowed) and (np.diff(values[: len(found)]) <= 0).all()
            assert (row[len(found) :] == -1).all()
        if label == "duplicates":
            assert ranks[0].tolist() == list(range(7))


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_the_same_from_files_in_any_batch_and_with_any_threads(
    name, data, tmp_path, monkeypatch
):
    queries, gallery, excluded = data
    step = {"step": name, **EVERY[name]}
    options = {"excluded": excluded, "photos": photos_of(gallery)}
    expected = rank(queries, gallery, WEIGHTS, [step], 7, **options)
    monkeypatch.setattr("features.search.exact_search.BLOCK_ROWS", 13)
    for folder in (None, tmp_path, tmp_path):
        for threads in (1, 2):
            with threadpool_limits(threads):
                found = rank(queries, gallery, WEIGHTS, [step], 7, **options, folder=folder)
            assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
    for query in range(7):  # no query sees another
        found = rank([q[query : query + 1] for q in queries], gallery, WEIGHTS, [step], 7, **options)
        assert (found[0] == expected[0][query]).all() and (found[1] == expected[1][query]).all()


def test_transductive_steps_see_the_queries(data):
    queries, gallery, excluded = data
    for step in (
        {"step": "whiten", "dim": 5},
        {"step": "znormalise"},
        {"step": "reciprocal", "k1": 6, "k2": 3},
    ):
        plain = rank(queries, gallery, WEIGHTS, [step], 7, excluded=excluded)
        seen = rank(queries, gallery, WEIGHTS, [{**step, "transductive": True}], 7, excluded=excluded)
        assert (plain[1] != seen[1]).any()


def test_pair_scores_are_canonical(data):
    _, gallery, _ = data
    left, right = np.arange(60), np.arange(60)[::-1]
    expected = [
        fused_score([g[i] for g in gallery], [g[j : j + 1] for g in gallery], WEIGHTS)[0]
        for i, j in zip(left, right)
    ]
    assert pair_scores(gallery, np.array(WEIGHTS), left, right).tolist() == expected


@pytest.mark.parametrize("k1, k2", [(6, 3), (4, 1)])
def test_transductive_reciprocal_ranks_as_the_paper_over_the_whole_gallery(k1, k2):
    gallery, queries = clustered(60, 9, 3), clustered(7, 9, 4)
    nodes = np.concatenate([gallery, queries])
    similarities = all_pairs(nodes)
    _, averaged = zhong(similarities, k1, k2)
    ranks, scores = rank(
        [queries], [gallery], [1.0], [{"step": "reciprocal", "k1": k1, "k2": k2, "transductive": True}], 20
    )
    for query in range(7):
        values = np.array(
            [
                -(
                    0.7 * naive_jaccard(averaged[60 + query], averaged[row])
                    + 0.3 * (1 - similarities[60 + query, row])
                )
                for row in range(60)
            ]
        )
        assert scores[query] == pytest.approx(np.sort(values)[::-1][:20], abs=1e-12)
        assert values[ranks[query]] == pytest.approx(scores[query], abs=1e-12)


def test_reciprocal_lists_that_need_a_deeper_search():
    gallery, queries = clustered(400, 5, 3, spread=0.05), clustered(3, 5, 4)
    full = rank([queries], [gallery], [1.0], [{"step": "reciprocal", "k1": 3, "k2": 1}], 400)
    for k in (1, 7, 50):
        found = rank([queries], [gallery], [1.0], [{"step": "reciprocal", "k1": 3, "k2": 1}], k)
        assert (found[0] == full[0][:, :k]).all() and (found[1] == full[1][:, :k]).all()


def test_diffusion_ranks_the_whole_gallery(data):
    queries, gallery, _ = data
    gallery = gallery[1:]
    gallery[0][20] = clustered(1, 14, 9)
    similarities = all_pairs(gallery[0])
    ranks, scores = rank(
        queries[1:],
        gallery,
        [1.0],
        [{"step": "diffuse", "neighbours": 6, "query_neighbours": 4, "alpha": 0.9, "iterations": 200}],
        60,
    )
    for query in range(7):
        own = component_similarity(queries[1][query], gallery[0])
        order = np.lexsort((np.arange(60), -own))
        expected = naive_diffusion(similarities, 6, order[:4], own[order[:4]], 0.9, 3.0)
        reached = expected > 1e-9
        assert scores[query][: reached.sum()] == pytest.approx(
            np.sort(expected)[::-1][: reached.sum()], abs=1e-5
        )
        assert sorted(ranks[query]) == list(range(60))
    assert (ranked_with_self_first(similarities)[:, 0] == np.arange(60)).all()


def test_weights_are_spread_over_groups():
    assert spread([2.0, 1.0, 5.0], [0, 0, 1]).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    with pytest.raises(Top7Error, match="1 weights for 2 entries"):
        spread([1.0], [0, 1])
    with pytest.raises(Top7Error, match="one of them above 0"):
        spread([0.0, 1.0], [0, 0])


@pytest.mark.parametrize(
    "steps, words",
    [
        ([{"step": "expnd"}], "step 1 of the recipe is 'expnd': did you mean 'expand'"),
        ([{"neighbours": 3}], "step 1 of the recipe is None"),
        (["expand"], "step 1 of the recipe is None"),
        ([{"step": "expand", "neighbors": 3}], "expand, has no 'neighbors': did you mean 'neighbours'"),
        ([{"step": "znormalise"}, {"step": "expand"}], "step 2 of the recipe, expand, lacks 'neighbours'"),
        ([{"step": "diffuse"}, {"step": "whiten", "dim": 3}], "whiten, comes after diffuse"),
        ([{"step": "measure", "name": "l1"}], "unknown measure 'l1'"),
        ([{"step": "expand", "neighbours": 2, "kind": "mean"}], "unknown weighting 'mean'"),
        ([{"step": "whiten", "dim": "128"}], "whiten, has dim = '128': expected a whole number"),
        ([{"step": "whiten", "dim": 8, "transductive": 1}], "transductive = 1: expected true or false"),
        ([{"step": "cascade", "stages": [{"keep": 3}]}], "cascade, has stages = .*expected a list of stages"),
        ([{"step": "approximate"}], "approximate, lacks 'index'"),
        ([{"step": "approximate", "index": "hsnw"}], "unknown kind of index 'hsnw': did you mean 'hnsw'"),
        ([{"step": "approximate", "index": "ivfpq", "links": 8}], "an index of kind ivfpq has no 'links'"),
        (
            [{"step": "approximate", "index": "hnsw", "links": 1}],
            "links = 1: expected a whole number of at least 2",
        ),
        ([{"step": "approximate", "index": "hnsw", "links": 2.5}], "links = 2.5: expected a whole number"),
        (
            [{"step": "approximate", "index": "hnsw", "checked": 0}],
            "checked = 0: expected a whole number of at",
        ),
        ([{"step": "approximate", "index": "ivfpq", "lists": 61}], "61 lists for 60 images"),
        (
            [{"step": "approximate", "index": "ivfpq", "code_bytes": 7}],
            "divides the 23 dimensions, such as 1, 23",
        ),
        (
            [{"step": "approximate", "index": "hnsw"}, {"step": "expand", "neighbours": 2}],
            "expand, comes after approx",
        ),
    ],
)
def test_wrong_steps_are_named(steps, words, data):
    queries, gallery, _ = data
    with pytest.raises(ConfigurationError, match=words):
        rank(queries, gallery, WEIGHTS, steps, 7)


WRONG_VALUES = {
    "whiten": {
        "dim": [0, -3, 2.0, True, "8", None, [8], 10**30],
        "exponent": [-1, 100, float("nan"), float("inf"), "1", 10**400],
        "shrinkage": [-0.1, 1.5, [0.1]],
        "samples": [1, 0.5],
        "seed": [-1, "x"],
        "transductive": [0, "yes"],
    },
    "augment": {
        "neighbours": [-1, 10**9, 1.5],
        "alpha": [-1, float("inf")],
        "weights": ["abc", [], [0, 0], [-1, 2]],
    },
    "expand": {"neighbours": [-1], "rounds": [0, 10**9], "kind": [3, ["average"]]},
    "measure": {"name": [None, ["cosine"], 1]},
    "cascade": {
        "stages": [
            *(5, {}, [], [3], [{"weights": [1, 1]}]),
            *([{"weights": [1, 1], "keep": keep}] for keep in ("x", 0, 2.5, True)),
            *([{"weights": weights, "keep": 7}] for weights in ("own", 1, [], [0, 0], [1, "a"])),
            [{"weights": [1, 1], "keep": 7}, {"weights": [1, 1], "keep": 8}],
        ]
    },
    "reciprocal": {"k1": [0, 10**6], "k2": [0, 1.0], "share": [-0.1, 1.1, "0.3"]},
    "diffuse": {
        "neighbours": [0],
        "query_neighbours": [0],
        "alpha": [1, 2.0, -0.5],
        "gamma": [-1],
        "iterations": [0],
    },
    "approximate": {
        "index": [None, ["hnsw"]],
        "candidates": [0],
        "checked": [0],
        "seed": [-1],
        "links": [1, "a"],
    },
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_values_that_no_step_can_use_are_refused_before_anything_runs(name):
    check_steps([{"step": name, **EVERY[name]}])
    for key, values in WRONG_VALUES[name].items():
        for value in values:
            with pytest.raises(ConfigurationError) as caught:
                check_steps([{"step": name, **EVERY[name], key: value}])
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_steps_that_are_no_list_of_steps_are_refused():
    for steps in (5, "expand", {"step": "expand"}, [[1]], [{"step": ["expand"]}], [{"step": None}]):
        with pytest.raises(ConfigurationError):
            check_steps(steps)


@pytest.mark.parametrize("transductive", [False, True])
def test_reciprocal_without_a_share_of_the_distance_keeps_the_order_of_similarity_among_ties(transductive):
    gallery, queries = clustered(80, 6, 3), clustered(5, 6, 4)
    step = {"step": "reciprocal", "k1": 4, "k2": 1, "share": 0.0, "transductive": transductive}
    ranks, scores = rank([queries], [gallery], [1.0], [step], 40)
    for query in range(5):
        similarity = component_similarity(queries[query], gallery)[ranks[query]]
        ties = scores[query][1:] == scores[query][:-1]
        assert ties.any() and (similarity[1:][ties] <= similarity[:-1][ties]).all()
    plain = search([queries], [gallery], [1.0], 40)[0]
    last = [
        [row for row in ranks[query] if row not in ranks[query][scores[query] > -1]] for query in range(5)
    ]
    expected = [[row for row in plain[query] if row in last[query]] for query in range(5)]
    assert [rows[:10] for rows in last] == [rows[:10] for rows in expected]


def test_what_a_study_may_try_are_arguments_of_the_steps(data):
    queries, gallery, excluded = data
    for name, arguments in TUNABLE.items():
        for key, values in arguments.items():
            for value in values:
                check_steps([{"step": name, **EVERY[name], key: value}])
    nothing = [{"step": "augment", "neighbours": 0}, {"step": "expand", "neighbours": 0}]
    found, expected = (
        rank(queries, gallery, WEIGHTS, steps, 7, excluded=excluded) for steps in (nothing, [])
    )
    assert (found[0] == expected[0]).all()


WRONG_ANYWHERE = [
    ("augment", "weights", "abc"),
    ("augment", "weights", [0.0, 0.0]),
    ("augment", "neighbours", -1),
    ("augment", "kind", "mean"),
    ("expand", "neighbours", 1.5),
    ("whiten", "dim", 0),
    ("whiten", "exponent", "half"),
    ("diffuse", "alpha", 2.0),
    ("cascade", "stages", 5),
    ("approximate", "links", 1),
    ("photo_whiten", "pairs", 2),
    ("reciprocal", "k1", 0),
]


@pytest.mark.parametrize("name, key, value", WRONG_ANYWHERE)
@pytest.mark.parametrize("kind", ["patterns", "components", "study", "experiment"])
def test_a_wrong_argument_in_any_file_is_one_line_with_file_step_argument_and_value(
    kind, name, key, value, tmp_path
):
    """In recipes of either kind, in [tuning] steps and in experiments."""
    steps = [{"step": "znormalise"}, {"step": name, **EVERY[name], key: value}]
    own = {"name": "v/1/spoc", "chain": "v/spoc", "backbone": "v", "layer": 1, "pooling": "spoc"}
    path = tmp_path / "a.file"
    if kind == "patterns":
        path.write_text(json.dumps({"components": [{"layer": -1}], "steps": steps}))
    elif kind == "components":
        path.write_text(
            json.dumps({"format": 1, "name": "a", "components": [own], "weights": [1.0], "steps": steps})
        )
    else:
        path = tmp_path / "a.toml"
    with pytest.raises(ConfigurationError) as caught:
        if kind == "study":
            configured_steps(steps, path, 2)
        elif kind == "experiment":
            table = {"name": "x", "title": "x", "network": {}}
            path.write_text(
                "".join(f"{k} = {json.dumps(v)}\n" for k, v in {"data": ["x"], "paper": "x"}.items())
                + "[[experiment]]\n"
                + "".join(f"{k} = {json.dumps(v) if v != {} else '{}'}\n" for k, v in table.items())
                + f'rows = [{{ label = "a", layers = [1], steps = {_toml(steps)} }}]\n'
            )
            experiments(tmp_path)
        else:
            read_recipe(path)
    said = str(caught.value)
    assert str(path) in said and "\n" not in said
    if kind != "study" or name not in (
        "approximate",
        "photo_whiten",
    ):  # whose study is refused for another reason
        assert all(each in said for each in ("step 2", name, key, repr(value)))
        assert "expected" in said or "known: " in said


def _toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
