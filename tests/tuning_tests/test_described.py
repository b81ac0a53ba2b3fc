"""What optuna-dashboard shows: studies and trials that say in plain words what they are."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import optuna
import pytest

from competition.configuration import load_configuration
from features.components import Component, full_name, short_names
from features.extraction import extract
from features.recipes.recipe import Recipe, write_recipe
from tuning import study as studies
from tuning import tune as tune_module
from tuning.described import choice_name, share_names
from tuning.landscape import Landscape
from tuning.storage import open_storage


@pytest.fixture(scope="module")
def tuned(tiny_competition, tmp_path_factory):
    """A study of the tiny competition and one of a recipe: (configuration, studies by name)."""
    work = tmp_path_factory.mktemp("work")
    configuration = load_configuration(tiny_competition, work=work)
    extract(configuration, progress=False)
    made = tune_module.tune(configuration, trials=12, folds=0)
    own = replace(made.untuned, name="own", choice={}, provenance={})
    assert isinstance(own, Recipe)
    write_recipe(work / "own.json", own)
    tune_module.tune(configuration, trials=4, folds=0, recipe=own)
    storage = open_storage(None, work)
    names = optuna.get_all_study_names(storage)
    return configuration, {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def test_a_study_says_recipe_region_backbones_and_labels(tuned):
    configuration, found = tuned
    plain, of_recipe = found.values()
    name = configuration.competition.name
    assert list(found)[0].startswith(f"{name}-") and list(found)[1].startswith(f"{name}-own-")
    said = plain.user_attrs
    assert said["recipe"] == "the configuration's choices" and of_recipe.user_attrs["recipe"] == "own"
    assert said["region"] == configuration.tuning.region
    assert configuration.backbones[0].name in said["backbones"] and " px, layers " in said["backbones"]
    digest = hashlib.sha256(configuration.competition.labels.read_bytes()).hexdigest()
    assert digest[:12] in said["labels"] and configuration.competition.labels.name in said["labels"]
    queries = Landscape(configuration).labelled
    assert f"{len(queries.query_ids)} queries, {queries.private.sum()} of them private" in said["labels"]
    assert all(isinstance(value, (str, int, float)) for value in said.values())


def test_a_trial_says_its_weights_by_component_and_the_private_figure(tuned):
    configuration, found = tuned
    study = next(iter(found.values()))
    landscape = Landscape(configuration)
    for trial in studies.completed(study):
        choice, coordinates = studies.point_of(trial.params)
        components = landscape.space.components_of(choice)
        weights = landscape.combination(choice).weights(coordinates)
        said = [trial.user_attrs[full_name(part)] for part in components]
        np.testing.assert_allclose(said, weights, atol=5.1e-5)
        private = landscape.precisions(choice, coordinates)[landscape.labelled.private].mean()
        assert trial.user_attrs["private MAP@7"] == pytest.approx(private, abs=5.1e-5)
        assert all(isinstance(value, (str, int, float)) for value in trial.user_attrs.values())


def test_names_in_words():
    rmac = [Component(f"net/{layer}/rmac", "net/rmac", "net", layer, "rmac") for layer in (3, 4)]
    spoc = Component("net/4/spoc", "net/spoc", "net", 4, "spoc")
    parts = Component("net.parts-4/N10-M8-t1", "net.parts-4", "net", 4, None, 0, 10, 8, 1.0)
    other = Component("vit.s/conv5_3/gem", "vit.s/gem", "vit.s", "conv5_3", "gem")
    head = Component("vit.s/head/head", "vit.s/head", "vit.s", "head", "head")
    clip = Component("external/clip", "external/clip", external="clip")
    assert full_name(rmac[1]) == "net layer 4 rmac" and full_name(clip) == "clip"
    assert short_names([*rmac, parts]) == [
        "layer 3 rmac",
        "layer 4 rmac",
        "10 parts of layer 4 (8 dims, exponent 1)",
    ]
    assert short_names([rmac[0], other, head, clip]) == [
        "net layer 3 rmac",
        "vit.s conv5_3 gem",
        "vit.s head",
        "clip",
    ]
    assert share_names([*rmac, parts]) == [
        "share of layer 3 and deeper",
        "share of layer 4",
        "share of part detectors of layer 4",
    ]
    both = share_names([*rmac, spoc])
    assert both == ["share of layer 3 rmac and deeper", "share of layer 4 rmac", "share of layer 4 spoc"]
    assert short_names([rmac[0], clip]) == ["layer 3 rmac", "clip"]  # what is made elsewhere is no backbone
    assert share_names([*rmac, clip])[1:] == ["share of layer 4", "share of clip"]
    assert share_names([rmac[0], other, clip])[1:] == ["share of layer conv5_3, vit.s", "share of clip"]
    assert choice_name("net.pooling", [*rmac, clip]) == "pooling"
    assert choice_name("net.pooling", [rmac[0], other]) == "net: pooling"
    assert choice_name("net.parts-4.count", rmac) == "part detectors of layer 4: count"
    assert choice_name("vit.s.parts-conv5_3.dim", [*rmac, other]) == "vit.s part detectors of conv5_3: dim"
    assert choice_name("whiten.dim", rmac) == "whiten: dim"
