"""Recipes by name, where there are several backbones: of all of them, and of each alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from competition.configuration import Configuration, load_configuration
from features.extraction import extract
from features.recipes.kept import find_recipe, recipe_names
from submissions.submitting import submit
from tuning.evaluating import of_one_backbone, score_named
from tuning.tune import tune


def with_twin(path: Path, work: Path) -> Configuration:
    """A second network, which takes colours for others."""
    found = load_configuration(path, work=work)
    (backbone,) = found.backbones
    twin = replace(backbone, name="twin", mean=(9.0, -3.0, 0.0), parts=())
    return replace(found, backbones=(replace(backbone, name="first", parts=()), twin))


def test_a_recipe_of_one_network_is_that_of_a_configuration_of_it_alone(tiny_competition, tmp_path):
    both = with_twin(tiny_competition, tmp_path / "both")
    extract(both, progress=False)
    found = score_named(both)
    assert {name for name in found if name.startswith("top7_pca")} == {
        "top7_pca",
        "top7_pca-first",
        "top7_pca-twin",
    }
    recipe = find_recipe(both, "top7_pca-first")
    assert {part.backbone for part in recipe.components} == {"first"}
    assert recipe.scores["validated"] == found["top7_pca-first"]

    one = replace(both, backbones=both.backbones[:1])
    one = replace(one, competition=replace(one.competition, work=tmp_path / "one"))
    extract(one, progress=False)
    assert of_one_backbone(one, recipe_names()) == []
    assert score_named(one)["top7_pca"] == found["top7_pca-first"]
    written = [
        submit(configuration, find_recipe(configuration, name), "test", tmp_path / f"{name}.csv")
        for configuration, name in ((both, "top7_pca-first"), (one, "top7_pca"))
    ]
    assert Path(written[0]["file"]).read_bytes() == Path(written[1]["file"]).read_bytes()


def test_what_is_taken_is_the_best_of_all_and_of_each_alone(tiny_competition, tmp_path):
    both = with_twin(tiny_competition, tmp_path)
    extract(both, progress=False)
    tune(both, trials=4, folds=0)
    found = score_named(both)
    chosen = find_recipe(both, None)
    assert chosen.scores["validated"] >= max(found.values())
