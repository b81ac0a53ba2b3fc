"""Named recipes: patterns resolved on configurations that have more or less than they ask for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from competition.configuration import Backbone, Competition, Configuration, External, Parts, Tuning
from competition.errors import ConfigurationError
from features.ranking.steps.expand import neighbour_weights
from features.recipes.kept import named_recipe, recipe_names
from features.recipes.recipe import read_recipe, resolve
from tests.benchmarks.recipes import without

RECIPES = (
    "fcrow_wmff_qe",
    "gan2018",
    "pwa_qe",
    "top7",
    "top7_augmented",
    "top7_expanded",
    "top7_pca",
    "ustc2019",
    "ustc2020",
    "wislab2018",
)
EVERYTHING = ("spoc", "mac", "crow", "fcrow", "rmac", "ramac", "grmac", "amac")


def configuration(*backbones, externals=()):
    return Configuration(
        Path("x.toml"), Competition("x", Path("gallery")), tuple(backbones), tuple(externals), Tuning()
    )


def backbone(name, layers=(0, 1, 2, 3, 4), pooling=EVERYTHING, parts=True):
    tables = (
        (Parts(layer=layers[-1], counts=(10, 50), dims=(64, 128), exponents=(0.5, 1.0)),) if parts else ()
    )
    return Backbone(model=name, name=name, layers=layers, pooling=pooling, parts=tables)


def test_the_recipes_are_all_there():
    assert recipe_names() == RECIPES


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("layers", [(4,), (0, 1, 2, 3, 4), ("conv4_3", "conv5_3")])
def test_every_recipe_resolves_on_any_configuration(name, count, layers):
    known = configuration(*[backbone(f"b{number}", layers) for number in range(count)])
    found = resolve(named_recipe(name), known)
    assert len(found.components) == len(set(found.components)) == len(found.weights) == len(found.groups) >= 1
    assert sum(found.weights) == pytest.approx(1) and min(found.weights) > 0


def names(recipe, known):
    return [component.name for component in resolve(recipe, known).components]


def test_ustc_takes_two_backbones_or_says_which_stands_in():
    recipe = named_recipe("ustc2019")
    two = configuration(backbone("a"), backbone("b"), backbone("c"))
    assert names(recipe, two) == ["a/4/mac", "b/4/grmac"] and not resolve(recipe, two).notes
    one = resolve(recipe, configuration(backbone("a")))
    assert [component.name for component in one.components] == ["a/4/mac", "a/4/grmac"]
    assert one.notes == ("wants 2 backbones, there are 1: a takes the place of number 2",)


def test_wislabs_weights_find_their_layers_by_name_or_by_depth():
    layers = ("conv1_2", "conv2_2", "conv3_1", "conv3_3", "conv4_3", "conv5_3")
    recipe = named_recipe("wislab2018")
    assert [stage["weights"][:6] for stage in recipe.steps[1]["stages"]] == [
        [1, 3, 5, 1, 7, 1],
        [1, 2, 0.1, 0.1, 1, 1],
        [2, 0.1, 0.1, 4.5, 1, 3],
    ]
    found = resolve(recipe, configuration(backbone("vgg", layers), backbone("resnet")))
    assert [component.layer for component in found.components] == [*layers, 4] and not found.notes
    assert found.weights[6] == pytest.approx(60 / 70.7) and found.groups == tuple(range(7))
    fewer = layers[:2] + layers[3:]  # the WMFF paper's five
    found = resolve(recipe, configuration(backbone("vgg", fewer)))
    assert [component.layer for component in found.components] == list(fewer)
    assert found.groups == (0, 1, 3, 4, 5)
    other = resolve(recipe, configuration(backbone("a")))
    assert [component.layer for component in other.components] == [0, 1, 2, 3, 4]
    assert other.groups == (1, 2, 3, 4, 5)


def test_rivals_take_the_poolings_of_their_own_programs_where_they_are_extracted():
    wholes = (*EVERYTHING, "rmac-whole", "ramac-whole", "grmac-whole")
    known = configuration(backbone("a", pooling=wholes))
    assert names(named_recipe("gan2018"), known) == [
        "a/4/mac",
        "a/4/spoc",
        "a/4/rmac-whole",
        "a/4/ramac-whole",
    ]
    assert names(named_recipe("ustc2020"), known) == ["a/4/grmac-whole", "a/4/amac"]
    assert neighbour_weights(np.array([[3]]), np.array([[0.9]]), "weighted", 3.0).tolist() == [[0.5]]
    assert named_recipe("gan2018").steps[3] == {"step": "augment", "neighbours": 1, "kind": "weighted"}
    two = neighbour_weights(np.array([[3, 4]]), np.array([[0.9, 0.8]]), "weighted", 3.0)
    assert two.tolist() == [[2 / 3, 1 / 3]]


def test_the_papers_weights_go_from_deep_to_shallow():
    found = resolve(named_recipe("fcrow_wmff_qe"), configuration(backbone("a", layers=(2, 0, 1))))
    assert [component.layer for component in found.components] == [0, 1, 2]
    assert found.weights == pytest.approx([w / 0.846 for w in (0.384, 0.154, 0.308)])
    assert found.groups == (2, 3, 4) and len(found.notes) == 2


def test_parts_are_the_nearest_the_table_has():
    found = resolve(named_recipe("pwa_qe"), configuration(backbone("a")))
    assert (
        found.components[0].count == 50
        and found.components[0].dim == 128
        and found.components[0].exponent == 1.0
    )
    assert found.notes == (
        "a parts: count 50 is the nearest to 150",
        "a parts: dim 128 is the nearest to 4096",
    )


@pytest.mark.parametrize("name", ["top7", "top7_expanded", "top7_augmented"])
def test_a_networks_own_embedding_takes_the_place_of_its_maps(name):
    recipe = named_recipe(name)
    vit = backbone("vit", layers=(11,), pooling=("cls", "gem", "head"), parts=False)
    found = resolve(recipe, configuration(vit))
    assert [component.pooled for component in found.components] == [("head", "head")] and not found.notes
    assert found.weights == pytest.approx([1.0])
    token = backbone("vit", layers=(9, 11), pooling=("rmac", "cls"), parts=False)
    assert [component.pooling for component in resolve(recipe, configuration(token)).components] == ["cls"]
    cnn = backbone("cnn", pooling=("rmac", "spoc-centre"))
    both = resolve(recipe, configuration(cnn, vit))
    shares = dict(zip(((part.backbone, part.pooled) for part in both.components), both.weights))
    assert shares.pop(("vit", ("head", "head"))) == pytest.approx(
        1 / 2
    )  # as much as the six of the other network
    assert len(shares) == 6 and list(shares.values()) == pytest.approx([1 / 12] * 6)


def test_a_component_that_several_patterns_find_has_their_weights(tmp_path):
    components = [
        {"layer": -1, "pooling": "mac"},
        {"layer": {"is": 4}, "pooling": "mac"},
        {"layer": {"is": 1}},
    ]
    recipe = read_recipe(written(tmp_path, components=components, weights=[1, 2, 5]))
    found = resolve(recipe, configuration(backbone("a")))
    assert [component.name for component in found.components] == ["a/4/mac", "a/1/spoc"]
    assert found.weights == pytest.approx([3 / 8, 5 / 8]) and found.groups == (0, 2)


def test_what_a_configuration_lacks_is_named():
    with pytest.raises(ConfigurationError, match="wants the pooling crow of a, which extracts mac"):
        resolve(named_recipe("wislab2018"), configuration(backbone("a", pooling=("mac",))))
    with pytest.raises(ConfigurationError, match="add parts = "):
        resolve(named_recipe("pwa_qe"), configuration(backbone("a", parts=False)))
    with pytest.raises(ConfigurationError, match="did you mean 'gan2018'"):
        named_recipe("gan2019")


def written(folder, **values):
    path = folder / "mine.json"
    path.write_text(json.dumps(values))
    return path


def test_a_file_of_ones_own(tmp_path):
    path = written(
        tmp_path,
        components=[{"external": "*"}, {"backbone": "b", "layer": {"is": 2}, "pooling": ["gem", "mac"]}],
        weights=[1, 3],
        steps=[{"step": "expand", "neighbours": 2}],
    )
    recipe = named_recipe(str(path))
    known = configuration(backbone("a"), backbone("b"), externals=[External("clip", Path("c.npy"))])
    assert names(recipe, known) == ["external/clip", "b/2/mac"]
    assert resolve(recipe, known).weights == (0.25, 0.75) and recipe.name == "mine"


@pytest.mark.parametrize(
    "values, words",
    [
        ({}, "a list of components"),
        ({"components": []}, "a list of components"),
        ({"components": [{}], "weight": [1]}, "did you mean 'weights'"),
        ({"components": [{"layr": 1}]}, "did you mean 'layer'"),
        ({"components": [{}], "weights": [1, 2]}, "2 weights for 1 components"),
        ({"components": [{}], "steps": [{"step": "expandd"}]}, "did you mean 'expand'"),
    ],
)
def test_a_wrong_file_is_one_line(values, words, tmp_path):
    path = written(tmp_path, **values)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_layer_that_is_not_there(tmp_path):
    recipe = read_recipe(written(tmp_path, components=[{"layer": -9, "pooling": "mac"}]))
    with pytest.raises(ConfigurationError, match=r"wants [^{}]+, which the configuration does not have"):
        resolve(recipe, configuration(backbone("a")))


def test_an_ablation_takes_one_thing_at_a_time(tmp_path):
    components = [{"layer": -1, "pooling": ["rmac", "mac"]}, {"parts": "*", "count": 9}]
    steps = [{"step": "whiten", "dim": 4}, {"step": "expand", "neighbours": 2}]
    recipe = read_recipe(written(tmp_path, components=components, weights=[1, 3], steps=steps))
    found = {
        name: (list(less.patterns), list(less.weights), list(less.steps))
        for name, less in without(recipe).items()
    }
    assert found == {
        "- step 1, whiten dim 4": (components, [1, 3], steps[1:]),
        "- step 2, expand neighbours 2": (components, [1, 3], steps[:1]),
        "- all steps": (components, [1, 3], []),
        "- component 1, layer -1 rmac": (components[1:], [3], steps),
        "- component 2, parts * count 9": (components[:1], [1], steps),
    }


OWN = {
    "format": 1,
    "name": "best",
    "components": [{"name": "v/1/spoc", "chain": "v/spoc", "backbone": "v", "layer": 1, "pooling": "spoc"}],
    "weights": [1.0],
    "scores": {"all": 0.5},
    "steps": [{"step": "expand", "neighbours": 2}],
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, None),
        ({"scores": {"all": "0.5"}}, "scores = .* expected an object of numbers"),
        ({"scores": [1]}, "scores = "),
        ({"weights": ["1"]}, "weights = .* expected a list of numbers"),
        ({"weights": [10**400]}, "weights = .* expected a list of numbers"),
        ({"steps": [{"step": "expand", "neighbours": [1]}]}, "neighbours = "),
        ({"steps": "expand"}, "steps"),
        (
            {"components": [{**OWN["components"][0], "layer": [1]}]},
            r"Expected `int \| str \| null`, got `array` - at `\$.layer`",
        ),
        ({"components": [1]}, "components = "),
        ({"groups": [None]}, "groups = "),
        ({"name": None}, "name = None: expected a name"),
    ],
)
def test_a_studys_recipe_with_wrong_types_is_one_line(tmp_path, change, words):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(OWN | change), encoding="utf-8")
    if words is None:
        assert read_recipe(path).name == "best"
        return
    with pytest.raises(ConfigurationError, match=words) as error:
        read_recipe(path)
    assert str(error.value).count(str(path)) == 1


def test_a_recipe_nested_without_end_is_one_line(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="JSON expected"):
        read_recipe(path)
