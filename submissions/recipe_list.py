"""The recipes by name and those kept under work, as a table with their figures, and one of them in words."""

from __future__ import annotations

from collections.abc import Mapping

from competition.configuration import Configuration
from competition.errors import ConfigurationError
from competition.tables import table
from features.components import short_names
from features.recipes import kept
from features.recipes.recipe import Recipe
from submissions.outcome import Outcome
from tuning.report import step_in_words

FIGURES: Mapping[str, str] = {
    "public": "on the labelled queries that the study saw",
    "private": "on those it did not see",
    "all": "on all labelled queries",
    "simulated": "on simulated photos",
    "validated": "validated, on queries that did not choose it",
}
PARTS = ("validated", "public", "private", "all", "simulated")


def listed(configuration: Configuration) -> Outcome:
    """Return every recipe: its figures, how they were validated, whether they are of this data."""
    found = {recipe.name: recipe for recipe in kept.kept_recipes(configuration)}
    usable = [recipe for recipe in found.values() if kept.is_of_this_data(configuration, recipe)]
    rows, lines = [], [["recipe", *PARTS, "how"]]
    for name in sorted({*found, *kept.recipe_names()}):
        recipe, how = found.get(name), "not scored yet"
        scores = {} if recipe is None else {part: recipe.scores.get(part) for part in PARTS}
        if recipe is not None:
            how = _validated_by(recipe) if recipe in usable else "figures of other data, or none validated"
        rows.append({"recipe": name, **scores, "how": how, "of this data": recipe in usable})
        figures = [scores.get(part) for part in PARTS]
        lines.append([name, *("-" if figure is None else f"{figure:.4f}" for figure in figures), how])
    values, text = {"recipes": rows}, table(lines, left=(0, len(PARTS) + 1), spare=(5, 4))
    if not usable:
        return Outcome(values, text)
    chosen, why = kept.choose(usable)
    return Outcome({**values, "submits": chosen.name}, f"{text}\nsubmit takes {why}")


def _validated_by(recipe: Recipe) -> str:
    told = str(recipe.provenance.get("validated by", "not tuned"))
    noise = recipe.provenance.get("within noise of")
    return told if noise is None else f"{told}, within noise of {noise}"


def explained(configuration: Configuration, name: str) -> Outcome:
    """Return what a recipe weighs, does after fusion, and where it comes from."""
    source = _source(name)
    try:
        recipe = kept.find_recipe(configuration, name)
    except ConfigurationError as error:
        if not source:
            raise
        lacks = {"recipe": name, "source": source, "lacks": str(error)}
        return Outcome(lacks, f"{name}: {source}\nnot usable here: {error}")
    values = {
        "recipe": recipe.name,
        "source": source,
        "weights": {part.name: weight for part, weight in zip(recipe.components, recipe.weights)},
        "steps": list(recipe.steps),
        "scores": recipe.scores,
        "provenance": recipe.provenance,
    }
    return Outcome(values, "\n".join(in_words(recipe)))


def _source(name: str) -> str:
    return kept.named_recipe(name).source if name in kept.recipe_names() else ""


def in_words(recipe: Recipe) -> list[str]:
    """Return what a recipe does, a line each: weights by component, steps, figures."""
    made = f"made by a study of {recipe.provenance.get('competition', 'yours')}"
    lines = [f"{recipe.name}: {_source(recipe.name) or made}"]
    backbones = sorted({part.backbone for part in recipe.components if part.backbone})
    of = f" of {backbones[0]}" if len(backbones) == 1 else ""  # several are named with each component
    lines.append(f"similarities of these descriptors{of}, weighed and added:")
    names = short_names(recipe.components)
    lines += [f"  {weight:7.4f}  {name}" for name, weight in zip(names, recipe.weights)]
    lines += [f"then {step_in_words(step)}" for step in recipe.steps]
    lines += [f"{FIGURES.get(name, name)}: {value:.4f}" for name, value in recipe.scores.items()]
    if "validated by" in recipe.provenance:
        lines.append(f"validated by {recipe.provenance['validated by']}")
    return lines
