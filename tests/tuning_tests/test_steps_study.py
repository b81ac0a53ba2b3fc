"""Steps in a study: every trial's figure is that of the submission its recipe writes, for every kind of step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from competition.configuration import load_configuration
from competition.errors import ConfigurationError
from competition.metrics import query_figures
from features.extraction import extract
from features.ranked_lists import ranked_lists
from features.ranking.photos import photos_for, teaching_parts
from features.recipes.kept import find_recipe
from features.recipes.recipe import Recipe, read_recipe, write_recipe
from submissions.__main__ import main
from submissions.submitting import submit
from tests.features_tests.ranking_references import rank
from tuning import study as studies
from tuning.described import study_name
from tuning.evaluating import labelled_precisions
from tuning.forecast import showable_gain
from tuning.labelled import labelled_queries
from tuning.landscape import Landscape
from tuning.region import random_coordinates
from tuning.space import space_of
from tuning.step_choices import configured_steps
from tuning.storage import open_storage
from tuning.tune import tune
from tuning.tuned import near_best_share

EXPAND = {"step": "expand", "neighbours": 2}
STUDIES = {
    "whitened": '{ step = "whiten", dim = [4, 3], exponent = [0.5, 1.0], optional = true }',
    "centred": '{ step = "measure", name = ["correlation", "cosine"] }, { step = "znormalise", optional = true }',
    "photos": '{ step = "photo_whiten", dim = [4, 3], shrinkage = [0.2, 0.5], joint = [false, true], optional = true }',
    "photos, then lists": '{ step = "photo_whiten", dim = 4, joint = [true, false] }, { step = "augment", neighbours = 2, '
    'weights = ["own", "equal", [0, 0, 1, 0]] }, { step = "cascade", stages = [{ weights = ["own", "vertex 4"], keep = 20 }, '
    '{ weights = ["centroid", "equal"], keep = 10 }] }',
    "augmented": '{ step = "augment", neighbours = [1, 0, 2], kind = ["weighted", "alpha"] }',
    "weighed": '{ step = "augment", neighbours = 2, weights = [[0, 0, 1, 0], "own", "equal"] }',
    "transductive": '{ step = "whiten", dim = 4, transductive = [false, true] }',
    "expanded": '{ step = "whiten", dim = 4 }, { step = "expand", neighbours = [1, 0, 3], kind = ["average", "alpha"] }, '
    '{ step = "expand", neighbours = [0, 1] }',
    "concatenated": '{ step = "concatenate" }, { step = "whiten", dim = [4, 6] }, { step = "augment", neighbours = [0, 2] }',
    "distant": '{ step = "measure", name = ["euclidean_raw", "kl_divergence"] }',
    "reciprocal": '{ step = "reciprocal", k1 = [3, 6], k2 = 2, tune = true }',
    "diffused": '{ step = "diffuse", neighbours = [3, 5], alpha = [0.9, 0.5] }',
    "cascaded": '{ step = "cascade", stages = [{ weights = ["equal", "vertex 4", [1, 0, 0, 1]], keep = [20, 5] }, '
    '{ weights = ["own", "centroid"], keep = 10 }] }',
}


@pytest.fixture(scope="module")
def awkward(tiny_competition, tmp_path_factory):
    """The tiny competition with exact duplicates in its gallery, extracted; returns (configuration file, work)."""
    folder, work = tmp_path_factory.mktemp("awkward") / "tiny", tmp_path_factory.mktemp("awkward-work")
    shutil.copytree(tiny_competition.parent, folder)
    for number in (0, 3, 9, 12):
        source = next((folder / "gallery").rglob(f"n{number:02d}.jpg"))
        shutil.copy(source, folder / "gallery" / f"a{number:02d}.jpg")
    text = (folder / "config.toml").read_text().replace("images = 0", "images = 20\nviews = 2")
    (folder / "config.toml").write_text(f'{text}\nobjective = "labels"\n')
    extract(load_configuration(folder / "config.toml", work=work))
    return folder / "config.toml", work


def configured(awkward, steps: str):
    path, work = awkward
    file = path.with_name("steps.toml")
    file.write_text(f"{path.read_text()}\nsteps = [{steps}]\n")
    return load_configuration(file, work=work)


def written_trials(configuration, landscape, tuned):
    """Each trial with the recipe it stands for."""
    name = f"{study_name(landscape)}-seed0"
    study = studies.open_study(open_storage(None, landscape.work), name)
    for trial in studies.completed(study):
        choice, coordinates = studies.point_of(trial.params)
        weights = landscape.recipe_weights(choice, coordinates)
        yield (
            trial.value,
            Recipe(
                "trial",
                landscape.space.components_of(choice),
                tuple(map(float, weights)),
                {},
                {},
                {},
                tuple(landscape.recipe_steps(choice, weights)),
            ),
        )


@pytest.mark.parametrize("kind", STUDIES)
def test_every_trial_is_scored_on_the_ranking_that_submit_writes(awkward, kind, capsys):
    configuration = configured(awkward, STUDIES[kind])
    tuned = tune(configuration, trials=14, folds=0)
    landscape = Landscape(configuration)
    labelled, found = landscape.labelled, []
    for value, recipe in written_trials(configuration, landscape, tuned):
        lists = ranked_lists(configuration, recipe, "validation", labelled.query_ids, landscape.gallery_ids)
        precisions = query_figures(lists.ranks, labelled.relevant, 7)
        assert precisions[labelled.public].mean() == pytest.approx(value, abs=1e-12)
        found.append(recipe.steps)
    assert len({json.dumps(steps) for steps in found}) > 1  # the study did choose
    # the recipe on disk, through the command that writes submissions
    best = read_recipe(tuned.paths["recipe"])
    assert best.steps == tuned.recipe.steps and best.scores["public"] == max(
        value for value, _ in written_trials(configuration, landscape, tuned)
    )
    written = submit(configuration, best, "validation")
    _, work = awkward
    capsys.readouterr()
    assert (
        main(["score", "--config", str(configuration.path), "--work", str(work), written["file"], "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["maps"]["min(m,k)"] == pytest.approx(
        best.scores["all"], abs=1e-12
    )
    assert not list((work / "ranking").glob("trial-*"))


def test_own_candidates_hold_every_top_seven_of_the_region(awkward):
    configuration = configured(
        awkward, STUDIES["whitened"] + ', { step = "augment", neighbours = 2, kind = "alpha" }'
    )
    landscape = Landscape(configuration)
    choice = landscape.space.default
    combination, (queries, gallery) = landscape.combination(choice), landscape.dumps(choice)
    assert (
        combination.padded is not None and len(set(combination.chains)) == 4
    )  # centred: each a chain of its own
    arrays = [[np.array(dump.descriptors) for dump in dumps] for dumps in (queries, gallery)]
    for coordinates in random_coordinates(40, 4, np.random.default_rng(0)):
        weights = coordinates @ combination.corners
        ranks, _ = rank(*arrays, weights, landscape.recipe_steps(choice, weights), 7, unit=True)
        expected = query_figures(ranks, landscape.labelled.relevant, 7)
        assert combination.average_precisions(weights) == pytest.approx(expected, abs=1e-12)


def test_a_plain_study_keeps_its_name_and_its_points(awkward):
    path, work = awkward
    landscape = Landscape(load_configuration(path, work=work))
    assert "steps" not in landscape.choice_lists and landscape.space.steps == ()
    with_none = Landscape(configured(awkward, ""))
    assert study_name(with_none) == study_name(landscape)
    assert study_name(Landscape(configured(awkward, STUDIES["whitened"]))) != study_name(landscape)


def test_no_gallery_statistic_sees_a_query_unless_told(awkward):
    """Other validation pictures, same gallery: the derived gallery is the same files."""
    names = {}
    for label, steps in (
        ("plain", '{ step = "whiten", dim = 3 }'),
        ("told", '{ step = "whiten", dim = 3, transductive = true }'),
    ):
        landscape = Landscape(configured(awkward, steps))
        choice = landscape.space.default
        prepared = landscape.prepared(choice)
        queries, gallery = landscape.dumps(choice)
        alone = rank(
            [q.descriptors[:1] for q in queries],
            [g.descriptors for g in gallery],
            np.full(4, 0.25),
            landscape.space.steps_of(choice),
            7,
            unit=True,
        )[1]
        together = rank(
            [q.descriptors for q in queries],
            [g.descriptors for g in gallery],
            np.full(4, 0.25),
            landscape.space.steps_of(choice),
            7,
            unit=True,
        )[1]
        names[label] = {dump.path.name for dump in prepared.gallery}
        assert (alone[0] == together[0]).all() == (label == "plain")
    assert not names["plain"] & names["told"]


def test_a_named_recipe_is_tuned_from_itself(awkward, tmp_path, capsys):
    path, work = awkward
    common = ("--config", str(path), "--work", str(work))
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps(
            {
                "components": [
                    {"parts": "*", "count": 8, "dim": 8},
                    {"layer": -1, "pooling": "spoc"},
                    {"layer": -2, "pooling": "spoc"},
                ],
                "weights": [2, 1, 1],
                "steps": [
                    {"step": "whiten", "dim": 6, "exponent": 0.5},
                    {"step": "expand", "neighbours": 2, "kind": "weighted"},
                ],
            }
        )
    )
    configuration = load_configuration(path, work=work)
    recipe = find_recipe(configuration, str(file))
    space = space_of(configuration, recipe)
    assert [component.layer for component in space.components_of({})] == [
        2,
        1,
        2,
    ]  # parts, then shallow to deep
    assert space.default == {
        "whiten.dim": 6,
        "whiten.exponent": 0.5,
        "whiten.shrinkage": 0.0,
        "expand.neighbours": 2,
        "expand.kind": "weighted",
        "expand.alpha": 3.0,
    }
    capsys.readouterr()
    assert main(["tune", *common, "--recipe", str(file), "--trials", "12", "--repeats", "1", "--json"]) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    assert (
        "a trial by full gallery (whiten, expand)" in captured.err
        and "own candidates (whiten)" in captured.err
    )
    assert set(values["seconds_per_trial"]) == {"full gallery (whiten, expand)", "own candidates (whiten)"}
    landscape = Landscape(configuration, recipe=recipe)
    first, as_tried = next(written_trials(configuration, landscape, None))
    assert as_tried.weights == pytest.approx((0.5, 0.25, 0.25)) and first == pytest.approx(
        values["untuned_scores"]["public"]
    )
    assert values["scores"]["public"] >= values["untuned_scores"]["public"] - 1e-12
    best, named = (
        json.loads((work / "recipes" / f"{name}.json").read_text()) for name in ("best", "mine-tuned")
    )
    assert best["name"] == "best" and named["name"] == "mine-tuned"
    assert all(best[key] == named[key] for key in best if key != "name")
    # a tuned recipe is tuned again from itself, and untuned is the recipe as it stood
    again = space_of(configuration, find_recipe(configuration, "mine-tuned"))
    assert again.recipe.name == "mine-tuned" and again.recipe.weights == tuple(named["weights"])
    assert read_recipe(work / "recipes" / "untuned.json").weights == pytest.approx((0.5, 0.25, 0.25))
    predicted, submitted = tmp_path / "p.csv", tmp_path / "s.csv"
    assert (
        main(["predict", *common, "--recipe", "mine-tuned", str(path.parent / "test"), str(predicted)]) == 0
    )
    assert main(["submit", *common, "--recipe", "mine-tuned", "--out", str(submitted)]) == 0
    assert predicted.read_bytes() == submitted.read_bytes()


def test_a_study_resumed_elsewhere_ranks_no_finished_trial_again(awkward, monkeypatch):
    configuration = configured(awkward, STUDIES["transductive"] + ', { step = "expand", neighbours = 2 }')
    kinds = [tune(configuration, trials=12, folds=0)]
    rankings = []
    full = Landscape.full_precisions

    def counted(self, choice, weights, corners):
        rankings.append(weights.tobytes())
        return full(self, choice, weights, corners)

    monkeypatch.setattr(Landscape, "full_precisions", counted)
    kinds.append(tune(configuration, trials=12, folds=0))
    assert kinds[0].bias_corrected == kinds[1].bias_corrected
    # none of the trials but the best, which is checked: else what is looked at beside the study
    landscape = Landscape(configuration)
    study = studies.open_study(open_storage(None, landscape.work), f"{study_name(landscape)}-seed0")
    best = max(studies.completed(study), key=lambda trial: trial.value)
    ranked_again = 0
    for trial in studies.completed(study):
        choice, coordinates = studies.point_of(trial.params)
        weights = landscape.combination(choice).weights(coordinates).tobytes()
        sampled = len(set(coordinates.round(9))) == len(coordinates) and trial.number != best.number
        ranked_again += sampled and weights in rankings
    assert ranked_again == 0


def test_joined_components_have_one_point(awkward):
    """What samples the region asks for the one weight, exactly 1, and not for sums of coordinates near it."""
    configuration = configured(awkward, '{ step = "photo_whiten", dim = 3, joint = true }')
    landscape = Landscape(configuration)
    made, asked = landscape.combination(landscape.space.default), []

    def stream(weights):
        asked.append(weights.tolist())
        return made.average_precisions(weights)

    watched = replace(made, padded=None, ranking=stream)
    values = made.average_precisions(np.ones(1))
    assert near_best_share(watched, values, landscape.labelled) == 1.0
    landscape.combination = lambda choice: watched
    assert "not known" in showable_gain(landscape, values)
    assert asked == [[1.0]] * len(asked) and len(asked) == 11


def test_predict_keeps_components_that_only_a_step_weighs(awkward, tmp_path):
    configuration = configured(awkward, "")
    components = Landscape(configuration).space.components_of(
        {name: values[0] for name, values in Landscape(configuration).choice_lists.items()}
    )
    weights = (0.0, 0.0, 1.0, 0.0)
    steps = (
        {"step": "augment", "neighbours": 2, "weights": [0.0, 1.0, 0.0, 0.0]},
        {
            "step": "cascade",
            "stages": [{"weights": [0.0, 0.0, 0.0, 1.0], "keep": 9}, {"weights": [1.0, 0, 1, 0], "keep": 7}],
        },
    )
    from submissions.predicting import predict

    recipe = Recipe("kept", components, weights, {}, {}, {}, steps)
    submit(configuration, recipe, "test", tmp_path / "s.csv")
    predict(configuration, recipe, configuration.path.parent / "test", tmp_path / "p.csv")
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_a_certificate_needs_candidates(awkward):
    with pytest.raises(ConfigurationError, match="--certify needs candidates, and expand depends"):
        tune(configured(awkward, STUDIES["expanded"]), trials=2, certify_seconds=1)
    tuned = tune(configured(awkward, STUDIES["augmented"]), trials=8, folds=0, certify_seconds=5)
    assert tuned.certificate.bound >= tuned.recipe.scores["public"] - 1e-12


@pytest.mark.parametrize(
    "steps, words",
    [
        ('{ step = "expnd" }', "steps: step 1 of the recipe is 'expnd'"),
        ("{ neighbours = 2 }", "number 1 names no step"),
        ('{ step = "expand", neighbours = [1, "two"] }', "has neighbours = 'two': expected a whole number"),
        ('{ step = "expand", neighbours = [1, 1] }', "each once"),
        ('{ step = "expand", neighbours = [] }', "at least one value"),
        ('{ step = "expand" }', "lacks 'neighbours'"),
        ('{ step = "expand", neighbours = 1, kind = ["mean"] }', "unknown weighting 'mean'"),
        ('{ step = "expand", neighbours = 1, optional = 1 }', "expected true or false"),
        ('{ step = "znormalise", tune = true }', "no list of values worth trying"),
        ('{ step = "diffuse" }, { step = "whiten", dim = 3 }', "comes after diffuse"),
        ('{ step = "cascade", stages = [{ keep = 3 }] }', "expected a list of tables"),
        (
            '{ step = "cascade", stages = [{ weights = "vertex 5", keep = 3 }] }',
            "'vertex 5': expected numbers, or one of",
        ),
        ('{ step = "augment", neighbours = 1, weights = [1, 0] }', "expected 4 numbers"),
        ('{ step = "approximate", index = "hnsw" }', "trials rank exactly"),
    ],
)
def test_wrong_steps_are_one_line_before_anything_runs(awkward, steps, words):
    with pytest.raises(ConfigurationError, match=words) as raised:
        Landscape(configured(awkward, steps))
    assert "steps" in str(raised.value) and "\n" not in str(raised.value)


def test_choices_of_steps_by_hand(tmp_path):
    steps = configured_steps(
        [
            {"step": "expand", "neighbours": [1, 0]},
            {"step": "expand", "neighbours": 2, "optional": True},
            {"step": "diffuse", "gamma": 1.0, "tune": True},
        ],
        tmp_path,
        2,
    )
    lists = {}
    for step in steps:
        lists |= step.choice_lists
    assert lists == {
        "expand-1.neighbours": (1, 0),
        "expand-2.used": (True, False),
        "diffuse.neighbours": (50, 5, 10),
        "diffuse.query_neighbours": (10, 3, 7),
        "diffuse.alpha": (0.99, 0.5, 0.9),
    }


@pytest.mark.parametrize("joint", ["true", "false"])
def test_a_certificate_and_a_second_study_of_a_recipe_that_learnt_from_photos(awkward, joint):
    configuration = configured(awkward, f'{{ step = "photo_whiten", dim = 3, joint = {joint} }}')
    tuned = tune(configuration, trials=6, folds=2, repeats=1, certify_seconds=2)
    assert tuned.certificate.bound >= tuned.recipe.scores["public"] - 1e-12
    assert len(tuned.recipe.weights) == 4 and tuned.misses is not None
    if joint == "true":
        assert (
            tuned.recipe.weights == (0.25,) * 4 and tuned.certificate.bound == tuned.recipe.scores["public"]
        )
        again = tune(configuration, trials=3, folds=0, recipe=tuned.recipe)
        assert again.recipe.scores["public"] == tuned.recipe.scores["public"]


def test_a_recipe_of_many_dimensions_is_studied_without_joining_them(awkward, capsys, monkeypatch):
    path, work = awkward
    configuration = load_configuration(path, work=work)
    components = space_of(configuration).components_of(space_of(configuration).default)

    def choices(joint):
        step = {"step": "photo_whiten", "dim": 4, "joint": joint}
        recipe = Recipe("wide", components[:2], (0.4, 0.6), steps=(step,))
        return Landscape(configuration, recipe=recipe).choice_lists

    assert choices(False)["photo_whiten.joint"] == (False, True)
    monkeypatch.setattr("tuning.landscape.MOST_JOINED", 1)
    assert "photo_whiten.joint" not in choices(False)
    assert "left out of the study: whitening all components joined" in capsys.readouterr().err
    assert choices(True)["photo_whiten.joint"] == (True, False)  # the recipe's own


@pytest.mark.parametrize("joint", [True, False])
def test_predict_and_a_bundle_without_the_photos_answer_as_submit_does(awkward, joint, tmp_path, capsys):
    path, work = awkward
    configuration = load_configuration(path, work=work)
    components = space_of(configuration).components_of(space_of(configuration).default)
    step = {"step": "photo_whiten", "dim": 4, "joint": joint}
    # the deepest layer, which says what teaches, is not among what the recipe needs
    recipe = Recipe("photos", components[:2], (1.0, 0.0) if joint else (0.4, 0.6), steps=(step, EXPAND))
    write_recipe(tmp_path / "recipe.json", recipe)
    command = ["--config", str(path), "--work", str(work), "--recipe", str(tmp_path / "recipe.json")]
    assert main(["submit", *command, "--out", str(tmp_path / "submit.csv")]) == 0
    inputs = str(path.parent / "test")
    assert main(["predict", inputs, str(tmp_path / "predict.csv"), *command]) == 0
    assert main(["bundle", *command, "--out", str(tmp_path / "bundle")]) == 0
    assert main(["predict", inputs, str(tmp_path / "bundled.csv"), "--bundle", str(tmp_path / "bundle")]) == 0
    answers = [(tmp_path / f"{name}.csv").read_text() for name in ("submit", "predict", "bundled")]
    assert answers[0] == answers[1] == answers[2]
    bundled = json.loads((tmp_path / "bundle" / "recipe.json").read_text())["steps"][0]
    assert bundled["learnt"] and not list((tmp_path / "bundle").rglob("*simulated*"))


def test_a_recipe_that_learns_from_photos_says_what_to_add_where_there_are_none(awkward, capsys):
    configuration = configured(awkward, '{ step = "photo_whiten", dim = 3 }')
    without = replace(configuration, simulate=replace(configuration.simulate, images=0))
    with pytest.raises(ConfigurationError, match=r"\[simulate\].*run ./run.sh extract") as caught:
        Landscape(without).combination(Landscape(without).space.default)
    assert "\n" not in str(caught.value)


def test_real_pairs_never_judge_what_they_taught(awkward, tmp_path):
    """A labelled query is ranked by what the labels of others taught: its own may be any, its list is the same."""
    path, work = awkward
    with pytest.raises(ConfigurationError, match="would judge what they taught"):
        space_of(configured(awkward, '{ step = "photo_whiten", dim = 4, pairs = [0, 0.5] }'))
    configuration = load_configuration(path, work=work)
    components = space_of(configuration).components_of(space_of(configuration).default)
    recipes = {
        pairs: Recipe(
            "real",
            components[:2],
            (0.5, 0.5),
            steps=({"step": "photo_whiten", "dim": 4, "pairs": pairs},),
        )
        for pairs in (0.0, 0.5)
    }
    found = {
        pairs: ranked_lists(configuration, recipe, "validation", None, None)
        for pairs, recipe in recipes.items()
    }
    assert (found[0.0].scores != found[0.5].scores).any()

    labelled = labelled_queries(configuration, found[0.5].gallery_ids)
    taken = {int(row) for rows in labelled.relevant for row in rows}
    free = [row for row in range(len(found[0.5].gallery_ids)) if row not in taken]
    alone = [
        number
        for number, group in enumerate(labelled.groups)
        if labelled.public[number] and np.sum(labelled.groups == group) == 1
    ]
    assert alone and free
    changed = alone[0]
    lines = [
        [name, *(found[0.5].gallery_ids[row] for row in (free[:1] if number == changed else rows))]
        for number, (name, rows) in enumerate(zip(labelled.query_ids, labelled.relevant))
    ]
    other = tmp_path / "other.csv"
    other.write_text("".join(",".join(line) + "\n" for line in lines))
    again = replace(configuration, competition=replace(configuration.competition, labels=other))
    lists = ranked_lists(again, recipes[0.5], "validation", None, None)
    assert (lists.scores[changed] == found[0.5].scores[changed]).all()
    assert (lists.scores != found[0.5].scores).any()  # it did teach the others

    # private queries, which teach nothing, are ranked as those of the test split are: by all public labels
    parts = teaching_parts(configuration, found[0.5].gallery_ids)
    assert sorted(chain.from_iterable(parts)) == sorted(
        name for name, public in zip(labelled.query_ids, labelled.public) if public
    )
    for part, unseen in ((labelled.private, ()), (np.isin(labelled.query_ids, parts[0]), parts[0])):
        photos = photos_for(configuration, components[:2], recipes[0.5].steps, found[0.5].gallery_ids, unseen)
        one = ranked_lists(configuration, recipes[0.5], "validation", None, None, photos=photos)
        assert part.any() and (one.ranks[part] == found[0.5].ranks[part]).all()
    values = labelled_precisions(configuration, recipes[0.5], labelled)
    assert (values == query_figures(found[0.5].ranks, labelled.relevant, 7)).all()


def test_a_study_is_another_where_other_user_photos_teach(awkward):
    """The photos of `test` join those that teach: without them, or with others, a trial's figure is another."""
    for unlabelled, differs in ((0.1, True), (0.0, False)):
        whole = configured(awkward, f'{{ step = "photo_whiten", dim = 3, unlabelled = {unlabelled} }}')
        without = replace(whole, competition=replace(whole.competition, test=None))
        names = {study_name(Landscape(each)) for each in (whole, without)}
        assert (len(names) == 2) == differs
