"""Studies judged by simulated photos, or by these and labels: every figure is that of a naive ranking of all queries."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from competition.configuration import External, load_configuration
from competition.errors import ConfigurationError
from competition.metrics import query_figures
from competition.splits import private_mask
from features.descriptors import gallery_ids, open_components
from features.extraction import extract
from features.ranked_lists import ranked_lists
from features.ranking.photos import judging_dumps, open_judging, photos_for
from features.recipes.kept import choose, is_of_this_data, kept_recipes, named_recipe
from features.recipes.recipe import resolve
from submissions.__main__ import main
from tuning import study as studies
from tuning.candidates import Candidates
from tuning.certificate import certify
from tuning.described import study_name
from tuning.evaluating import labelled_precisions
from tuning.labelled import HALF_AT, labelled_queries, study_queries
from tuning.landscape import Landscape
from tuning.objective import mean_average_precision, pad_candidates
from tuning.report import report
from tuning.storage import open_storage
from tuning.tune import tune
from tuning.validation import bias_corrected, compare, cross_validate, group_interval

STEPS = 'steps = [{ step = "photo_whiten", dim = [4, 3], optional = true }'


@pytest.fixture(scope="module")
def extracted(tiny_competition, tmp_path_factory):
    """The tiny competition with 3 photos of each of 24 images, and with no labels beside it: (two files, work)."""
    folder, work = tmp_path_factory.mktemp("judging") / "tiny", tmp_path_factory.mktemp("judging-work")
    shutil.copytree(tiny_competition.parent, folder)
    text = (folder / "config.toml").read_text().replace("images = 0", "images = 24\nviews = 3")
    (folder / "config.toml").write_text(text)
    lines = [line for line in text.splitlines() if not line.startswith(("labels", "validation"))]
    (folder / "unlabelled.toml").write_text("\n".join(lines) + "\n")
    extract(load_configuration(folder / "config.toml", work=work))
    return folder, work


def configured(extracted, more: str, tmp_path, file="config.toml"):
    folder, work = extracted
    path = folder / f"{tmp_path.name}.toml"
    path.write_text(f"{(folder / file).read_text()}{more}\n")
    copied = tmp_path / "work"
    shutil.copytree(work, copied, dirs_exist_ok=True)
    return load_configuration(path, work=copied)


def naive_figures(configuration, landscape, weights, choice):
    """AP of real queries, then of photos: float64 similarities and one sort by (-score, row), steps left out."""
    parts = landscape.space.components_of(choice)
    gallery = open_components(configuration, parts, "gallery", landscape.gallery_ids)
    judged = open_judging(configuration, landscape.gallery_ids, 1000)
    found = []
    sides = [(judging_dumps(configuration, parts, judged.ids), judged.correct)]
    if configuration.competition.labels is not None:
        labelled = labelled_queries(configuration, landscape.gallery_ids)
        sides.insert(
            0,
            (open_components(configuration, parts, "validation", labelled.query_ids), labelled.relevant),
        )
    for queries, relevant in sides:
        scores = sum(
            w * (q.descriptors[:, None].astype(float) * g.descriptors[None].astype(float)).sum(axis=-1)
            for w, q, g in zip(weights, queries, gallery)
        )
        ranks = np.stack([np.lexsort((np.arange(len(line)), -line))[:7] for line in np.round(scores, 12)])
        found.append(query_figures(ranks, relevant, 7))
    return found


@pytest.mark.parametrize("objective", ["simulated", "both"])
def test_every_trial_is_the_naive_ranking_of_all_queries_under_the_weights(extracted, tmp_path, objective):
    configuration = configured(extracted, f'objective = "{objective}"', tmp_path)
    tuned = tune(configuration, trials=8, folds=2, repeats=1, certify_seconds=2)
    landscape = Landscape(configuration)
    judged = open_judging(configuration, landscape.gallery_ids, 1000)
    labelled = labelled_queries(configuration, landscape.gallery_ids)
    hidden = private_mask(judged.groups, 0.3, 0)
    n = len(np.unique(labelled.groups[~labelled.private]))
    share = n / (n + HALF_AT) if objective == "both" else 0.0
    study = studies.open_study(open_storage(None, landscape.work), f"{study_name(landscape)}-seed0")
    for trial in studies.completed(study):
        choice, coordinates = studies.point_of(trial.params)
        weights = landscape.recipe_weights(choice, coordinates)
        real, photos = naive_figures(configuration, landscape, weights, choice)
        expected = share * real[~labelled.private].mean() + (1 - share) * photos[~hidden].mean()
        assert trial.value == pytest.approx(expected, abs=1e-12)
    real, photos = naive_figures(configuration, landscape, tuned.recipe.weights, tuned.recipe.choice)
    scores = tuned.recipe.scores
    assert scores["simulated"] == pytest.approx(photos.mean())
    assert scores["all"] == pytest.approx(real.mean())
    assert scores["private"] == pytest.approx(real[labelled.private].mean())
    assert tuned.certificate.bound >= tuned.certificate.best
    assert tuned.cross_validated is not None and tuned.comparison is not None
    if objective == "simulated":  # no label chose it
        assert scores["validated"] == pytest.approx(real.mean())
    public, photos = landscape.labelled.public, ~landscape.labelled.real
    told = tuned.cross_validated.out_of_fold[:, (photos if objective == "simulated" else ~photos)[public]]
    assert scores["cross-validated"] == pytest.approx(told.mean())  # what to expect of queries, not of photos
    asked = "simulated photos" if objective == "simulated" else "queries"
    assert f"to expect on new {asked}: {told.mean():.4f}" in report(tuned)


def test_each_objective_is_a_study_of_its_own(extracted, tmp_path):
    names = set()
    for objective in ("labels", "simulated", "both"):
        configuration = configured(extracted, f'objective = "{objective}"', tmp_path)
        names.add(study_name(Landscape(configuration)))
    assert len(names) == 3


@pytest.mark.parametrize(
    "more, expected",
    [
        ("", "both"),
        ("private = 0", "both"),
        ('objective = "labels"', "labels"),
        (STEPS + "]", "both"),
        (STEPS + ', { step = "expand", neighbours = [2, 0] }]', "labels"),  # photos cannot judge expansion
    ],
)
def test_few_labels_are_joined_by_photos_unless_a_step_shuns_them(
    extracted, tmp_path, capsys, more, expected
):
    configuration = configured(extracted, more, tmp_path)
    landscape = Landscape(configuration)
    assert (landscape.configuration.tuning.objective or "labels") == expected
    assert (~landscape.labelled.real).any() == (expected == "both")
    said = f"{len(np.unique(landscape.labelled.groups[landscape.labelled.public & landscape.labelled.real]))} groups"
    assert (said in capsys.readouterr().err) == (expected == "both")
    if expected == "both":
        written = configured(extracted, more + '\nobjective = "both"', tmp_path)
        assert study_name(Landscape(written)) == study_name(landscape)


def test_enough_labels_judge_alone(extracted, tmp_path, monkeypatch):
    configuration = configured(extracted, "private = 0", tmp_path)
    n_groups = len(np.unique(labelled_queries(configuration, gallery_ids(configuration)).groups))
    monkeypatch.setattr("tuning.labelled.HALF_AT", n_groups)
    assert Landscape(configuration).labelled.real.all()
    monkeypatch.setattr("tuning.labelled.HALF_AT", n_groups + 1)
    assert not Landscape(configuration).labelled.real.all()


def test_photos_that_judge_never_teach(extracted, tmp_path, capsys):
    """All photos teach for the lists of user photos; those of the judging half are ranked by what the others taught."""
    step = {"step": "photo_whiten", "dim": 4}
    configuration = configured(extracted, "", tmp_path)
    ids = gallery_ids(configuration)
    half, everything = (
        replace(resolve(named_recipe("top7"), configuration), steps=({**step, "all_photos": more},))
        for more in (False, True)
    )
    judged = open_judging(configuration, ids, 1000)
    taught = [
        photos_for(configuration, half.components, steps, ids, photos_judge=judges).pairs
        for steps, judges in ((half.steps, False), (everything.steps, True), (everything.steps, False))
    ]
    assert np.array_equal(taught[0], taught[1]) and len(taught[2]) > len(taught[1])
    rows = [set(pairs[:, 1].tolist()) for pairs in taught]
    assert rows[2] == rows[0] | set(judged.gallery_rows.tolist()) and not rows[0] & set(judged.gallery_rows)
    of_photos = [
        ranked_lists(configuration, each, "simulated", judged.ids, None) for each in (half, everything)
    ]
    assert (of_photos[0].scores == of_photos[1].scores).all()
    of_users = [ranked_lists(configuration, each, "validation", None, None) for each in (half, everything)]
    assert (of_users[0].scores != of_users[1].scores).any()
    asked = 'steps = [{ step = "photo_whiten", dim = [4, 3], all_photos = true }]\nobjective = '
    for objective, kept in (("labels", True), ("both", False), ("simulated", False)):
        study = Landscape(configured(extracted, f'{asked}"{objective}"', tmp_path))
        (written,) = study.space.steps_of(study.space.default)
        assert written.get("all_photos", False) == kept
        assert ("leaves out what photos that judge" in capsys.readouterr().err) != kept


def test_too_few_photos_do_not_judge_by_default(extracted, tmp_path, capsys):
    configuration = configured(extracted, "", tmp_path)
    configuration = replace(configuration, simulate=replace(configuration.simulate, images=1))
    assert Landscape(configuration).labelled.real.all()
    assert "no simulated photos" in capsys.readouterr().err


def test_photos_of_images_that_look_alike_are_one_group_and_apart_from_real_queries(extracted, tmp_path):
    configuration = configured(extracted, 'objective = "both"', tmp_path)
    found = study_queries(configuration, Landscape(configuration).gallery_ids)
    judged = open_judging(configuration, Landscape(configuration).gallery_ids, 1000)
    photos = found.groups[~found.real]
    assert not set(photos) & set(found.groups[found.real])
    assert (photos - photos.min() == judged.groups - judged.groups.min()).all()
    assert found.weight[found.public].sum() == pytest.approx(1)


def test_without_labels_photos_judge_the_study_and_top7_is_sent(extracted, tmp_path, capsys):
    more = STEPS + ', { step = "augment", neighbours = [2, 0] }]'
    configuration = configured(extracted, more, tmp_path, "unlabelled.toml")
    arguments = ["--config", str(configuration.path), "--work", configuration.competition.work.__fspath__()]
    assert main(["tune", "--trials", "6", "--folds", "2", "--repeats", "1", *arguments]) == 0
    shown = capsys.readouterr()
    assert "left out of the study: augment: simulated photos cannot judge" in shown.err
    assert "on 36 simulated photos;" in shown.out and "tell neither how well real photos do" in shown.out
    recipes = [r for r in kept_recipes(configuration) if is_of_this_data(configuration, r)]
    assert {"best", "untuned", "top7"} <= {recipe.name for recipe in recipes}
    assert not any(step["step"] in ("augment", "expand") for r in recipes for step in r.steps)
    top7 = next(recipe for recipe in recipes if recipe.name == "top7")
    landscape = Landscape(configuration)
    values = labelled_precisions(configuration, top7, landscape.labelled)
    assert top7.scores["simulated"] == top7.scores["validated"] == values.mean()
    assert main(["submit", *arguments]) == 0
    shown = capsys.readouterr()
    assert choose(recipes)[0].name == "top7"
    assert "recipe top7" in shown.out and "on simulated photos" in shown.out and "no label says" in shown.err
    clear = [each for each in recipes if each.name != "top7" and "within noise of" not in each.provenance]
    assert choose(clear)[0].scores["validated"] == max(each.scores["validated"] for each in clear)


@pytest.mark.parametrize("objective", ["simulated", "both"])
def test_what_cannot_be_judged_is_one_line(extracted, tmp_path, objective):
    configuration = configured(extracted, f'objective = "{objective}"', tmp_path)
    ids = Landscape(configuration).gallery_ids
    outside = replace(configuration, externals=(External("clip", tmp_path, tmp_path, tmp_path),))
    with pytest.raises(ConfigurationError, match="clip does not describe simulated photos") as caught:
        study_queries(outside, ids)
    assert "\n" not in str(caught.value)
    none = replace(configuration, simulate=replace(configuration.simulate, images=0))
    with pytest.raises(ConfigurationError, match="there are no simulated photos: add"):
        study_queries(none, ids)


def test_weights_of_the_mean_are_those_of_repeated_queries():
    """A query of weight 2 counts as one that is there twice: value, certificate, folds, interval, bias correction."""
    generator = np.random.default_rng(0)
    rows = tuple(np.arange(12) for _ in range(5))
    candidates = Candidates(rows, tuple(generator.random((12, 3)) for _ in range(5)))
    relevant = [np.array([query, query + 3]) for query in range(5)]
    padded = pad_candidates(candidates, relevant, 3)
    twice = np.array([0, 0, 1, 2, 3, 3, 4])
    weighed = replace(padded, weight=np.array([2.0, 1, 1, 2, 1]))
    for point in generator.dirichlet(np.ones(3), 20):
        assert mean_average_precision(weighed, point) == pytest.approx(
            mean_average_precision(padded.of_queries(twice), point)
        )
    found = [
        certify([each], [np.eye(3)], 60, max_nodes=20_000) for each in (weighed, padded.of_queries(twice))
    ]
    assert found[0].best == pytest.approx(found[1].best) and found[0].gap == found[1].gap == 0
    groups, weight = np.arange(5), weighed.weight
    precisions = generator.random((4, 5))
    assert group_interval(precisions[0], groups, weight) == pytest.approx(
        group_interval(precisions[0][twice], groups[twice])
    )
    one = compare(precisions[0], precisions[1], groups, weight=weight)
    two = compare(precisions[0][twice], precisions[1][twice], groups[twice])
    assert (one.gain, one.p) == pytest.approx((two.gain, two.p))
    assert bias_corrected(precisions, groups, weight=weight)[twice] == pytest.approx(
        bias_corrected(precisions[:, twice], groups[twice])
    )
    told = np.array([True, True, False, True, False])
    folded = cross_validate(lambda inside, seed: precisions[0], groups, n_folds=5, told=told)
    assert folded.mean == pytest.approx(precisions[0][told].mean())
    assert folded.spread == pytest.approx(precisions[0][told].std())
    low, high = group_interval(precisions[0][told], groups[told])
    assert folded.interval == pytest.approx((max(low, 0), min(high, 1)))  # no figure lies beyond
