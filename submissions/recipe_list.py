"""The recipes by name and those kept under work, as a table with their figures, and one of them in words."""

from __future__ import annotations

from typing import Any

from competition.configuration import Configuration
from competition.errors import ConfigurationError
from competition.tables import table
from features.recipes.kept import (
    choose,
    find_recipe,
    is_of_this_data,
    kept_recipes,
    named_recipe,
    recipe_names,
)
from features.recipes.recipe import Recipe

PARTS = ("validated", "public", "private", "all")


def listed(configuration: Configuration) -> tuple[dict, str]:
    """Return (values, text) of every recipe: its figures, how they were validated, whether they are of this data."""
    kept = {recipe.name: recipe for recipe in kept_recipes(configuration)}
    rows: list[dict[str, Any]] = []
    for name in sorted({*kept, *recipe_names()}):
        if name not in kept:
            rows.append({"recipe": name, "how": "not scored yet", "of this data": False})
            continue
        recipe = kept[name]
        current, told = is_of_this_data(configuration, recipe), recipe.provenance
        how = (
            str(told.get("validated by", "not tuned"))
            if current
            else "figures of other data, or none validated"
        )
        if current and "within noise of" in told:
            how += f", within noise of {told['within noise of']}"
        scores = {part: recipe.scores.get(part) for part in PARTS}
        rows.append({"recipe": name, **scores, "how": how, "of this data": current})
    lines = [["recipe", *PARTS, ""]]
    for row in rows:
        cells = ["-" if row.get(part) is None else f"{row[part]:.4f}" for part in PARTS]
        lines.append([row["recipe"], *cells, row["how"]])
    values: dict[str, Any] = {"recipes": rows}
    text = table(lines, left=(0, 5))
    usable = [kept[row["recipe"]] for row in rows if row["of this data"]]
    if usable:
        chosen, why = choose(usable)
        values["submits"] = chosen.name
        text += f"\nsubmit takes {why}"
    return values, text


def explained(configuration: Configuration, name: str) -> tuple[dict, str]:
    """Return (values, text): what a recipe weighs, does after fusion, and where it comes from."""
    source = named_recipe(name).source if name in recipe_names() else ""
    try:
        recipe = find_recipe(configuration, name)
    except ConfigurationError as error:
        if not source:
            raise
        return {
            "recipe": name,
            "source": source,
            "lacks": str(error),
        }, f"{name}: {source}\nnot usable here: {error}"
    values = {
        "recipe": recipe.name,
        "source": source,
        "weights": {part.name: weight for part, weight in zip(recipe.components, recipe.weights)},
        "steps": list(recipe.steps),
        "scores": recipe.scores,
        "provenance": recipe.provenance,
    }
    return values, "\n".join(in_words(recipe, source))


def in_words(recipe: Recipe, source: str) -> list[str]:
    lines = [
        f"{recipe.name}: {source or 'made by a study of ' + str(recipe.provenance.get('competition', 'yours'))}"
    ]
    lines.append("similarities of these descriptors, weighed and added:")
    lines += [f"  {weight:7.4f}  {part.name}" for part, weight in zip(recipe.components, recipe.weights)]
    for step in recipe.steps:
        told = ", ".join(f"{key} {value}" for key, value in step.items() if key != "step")
        lines.append(f"then {step['step']}" + (f" ({told})" if told else ""))
    lines += [f"{name}: {value:.4f}" for name, value in recipe.scores.items()]
    if "validated by" in recipe.provenance:
        lines.append(f"validated by {recipe.provenance['validated by']}")
    return lines
