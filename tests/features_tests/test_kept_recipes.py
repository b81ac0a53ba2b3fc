"""Which of the kept recipes is the best, and that none is lost to a worse one."""

from dataclasses import replace

import pytest

from features.components import component_from
from features.recipes.kept import choose, keep_recipe
from features.recipes.recipe import Recipe, read_recipe

COMPONENT = component_from({"name": "external", "chain": "external", "external": "external"})
DATA = {"gallery": "g", "labels": "l", "top_k": 7, "dumps": ["d"]}


def recipe(name, validated, public=0.5, *, step=1, noise=False, **provenance):
    told = {"data": DATA, **provenance} | ({"within noise of": "untuned"} if noise else {})
    scores = {"validated": validated, "public": public}
    return Recipe(name, (COMPONENT,), (1.0,), {}, scores, told, ({"step": "expand", "neighbours": step},))


def test_the_best_validated_figure_is_chosen_and_said():
    found, why = choose([recipe("best", 0.3, 0.9), recipe("top7", 0.4, 0.4), recipe("untuned", 0.2)])
    assert found.name == "top7" and "0.4000" in why and "top7" in why and "best of 3" in why


def test_a_tuned_recipe_within_noise_is_passed_over_and_that_is_said():
    found, why = choose([recipe("best", 0.31, noise=True), recipe("untuned", 0.30)])
    assert found.name == "untuned" and "best 0.3100" in why and "within noise" in why
    assert choose([recipe("best", 0.31, noise=True)])[0].name == "best"  # nothing else is there


def test_of_equal_validated_figures_the_better_on_public_queries_is_chosen():
    # what a certificate adds: the study's validated figure is the same, the public one higher
    assert choose([recipe("best", 0.3, 0.2449), recipe("best-1", 0.3, 0.2457)])[0].name == "best-1"
    assert choose([recipe("best", 0.3, 0.25), recipe("top7-tuned", 0.3, 0.25)])[0].name == "best"


def test_a_worse_recipe_of_the_same_data_does_not_replace_a_better_one_in_silence(tmp_path, capsys):
    path = tmp_path / "best.json"
    keep_recipe(path, recipe("best", 0.3663), None)
    earlier = read_recipe(path)
    worse = recipe("best", 0.2713, step=2)
    for _ in range(2):  # a study writes twice: once its trials are done, and again once it is validated
        keep_recipe(path, worse, earlier)
    assert read_recipe(path).scores["validated"] == 0.2713
    (aside,) = tmp_path.glob("best-*.json")
    assert read_recipe(aside).scores["validated"] == 0.3663 and read_recipe(aside).name == aside.stem
    said = capsys.readouterr().err
    assert said.count("0.3663") == 1 and str(aside) in said and "0.2713" in said


def test_a_better_one_that_another_file_holds_is_not_kept_twice(tmp_path, capsys):
    for name in ("best", "top7-tuned"):
        keep_recipe(tmp_path / f"{name}.json", recipe(name, 0.4), None)
    keep_recipe(tmp_path / "best.json", recipe("best", 0.3, step=2), read_recipe(tmp_path / "best.json"))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["best", "top7-tuned"]
    assert f"that is kept as {tmp_path}/top7-tuned.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "after",
    [
        recipe("best", 0.4, step=2),
        recipe("best", 0.2),  # the same recipe with another figure
        replace(recipe("best", 0.2, step=2), provenance={"data": {**DATA, "labels": "others"}}),
    ],
)
def test_a_better_one_the_same_one_or_one_of_other_data_replaces_it(tmp_path, capsys, after):
    path = keep_recipe(tmp_path / "best.json", recipe("best", 0.3), None)
    keep_recipe(path, after, read_recipe(path))
    assert list(tmp_path.glob("*.json")) == [path] and capsys.readouterr().err == ""
