"""The recipes by name and those kept under work, as a table with their figures, and one of them in words."""

from __future__ import annotations

from competition.configuration import Configuration
from competition.errors import ConfigurationError
from competition.standings import table
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
    rows = []
    for name in sorted({*kept, *recipe_names()}):
        recipe = kept.get(name)
        current = recipe is not None and is_of_this_data(configuration, recipe)
        scores = {} if recipe is None else {part: recipe.scores.get(part) for part in PARTS}
        how = "not scored yet" if recipe is None else str(recipe.provenance.get("validated by", "not tuned"))
        if recipe is not None and not current:
            how = "figures of other data, or none validated"
        elif current and "within noise of" in recipe.provenance:
            how += f", within noise of {recipe.provenance['within noise of']}"
        rows.append({"recipe": name, **scores, "how": how, "of this data": current})
    lines = [["recipe", *PARTS, ""]]
    for row in rows:
        cells = ["-" if row.get(part) is None else f"{row[part]:.4f}" for part in PARTS]
        lines.append([row["recipe"], *cells, row["how"]])
    values, text = {"recipes": rows}, table(lines, left=(0, 5))
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
