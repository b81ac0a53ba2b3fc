"""Recipes for people: all of them with their figures, one in words, several on the same dumps with paired intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from competition.metrics import figure_name
from competition.tables import table
from features.components import short_names
from features.descriptors import gallery_ids
from features.recipes import kept
from features.recipes.recipe import Recipe
from submissions.outcome import Outcome
from tuning.evaluating import fitting, keep_named, labelled_precisions, mean_figures
from tuning.labelled import labelled_queries
from tuning.report import step_in_words
from tuning.validation import compare, holm

FIGURES = {
    "validated": "validated, on queries that did not choose it",
    "public": "on the labelled queries that the study saw",
    "private": "on those it did not see",
    "all": "on all labelled queries",
    "simulated": "on simulated photos",
}


def listed(configuration: Configuration) -> Outcome:
    """Return every recipe: its figures, how they were validated, whether they are of this data."""
    found = {recipe.name: recipe for recipe in kept.kept_recipes(configuration)}
    usable = [recipe for recipe in found.values() if kept.is_of_this_data(configuration, recipe)]
    rows, lines = [], [["recipe", *FIGURES, "how"]]
    for name in sorted({*found, *kept.recipe_names()}):
        recipe, how, scores = found.get(name), "not scored yet", {}
        if recipe is not None:
            how = "figures of other data, or none validated"
            scores = {part: recipe.scores.get(part) for part in FIGURES}
        if recipe in usable:
            how = str(recipe.provenance.get("validated by", "not tuned"))
            if "within noise of" in recipe.provenance:
                how += f", within noise of {recipe.provenance['within noise of']}"
        rows.append({"recipe": name, **scores, "how": how, "of this data": recipe in usable})
        figures = [scores.get(part) for part in FIGURES]
        lines.append([name, *("-" if figure is None else f"{figure:.4f}" for figure in figures), how])
    values: dict[str, object] = {"recipes": rows}
    text = table(lines, left=(0, len(FIGURES) + 1), spare=(5, 4))
    if usable:
        chosen, why = kept.choose(usable)
        values["submits"] = chosen.name
        text += f"\nsubmit takes {why}"
    return Outcome(values, text)


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


def compared(configuration: Configuration, names: Sequence[str], index: str | None) -> Outcome:
    """Rank the validation queries under every recipe; returns figures and seconds by recipe, in their order.

    names: none for all that fit, of which one that cannot be ranked here is left out, with a line that says why;
    otherwise that is an error. index: see `find_recipe`.

    All but the first have their gain over it, paired over groups of queries, p corrected for the number of recipes by
    Holm. "simulated": what is on record of simulated photos. The figures of recipes that ship with top7 are kept, as
    `tune` keeps them.
    """
    found = [kept.find_recipe(configuration, name, index) for name in names]
    if not names:
        own = sorted(path.stem for path in (configuration.competition.work / "recipes").glob("*.json"))
        found = fitting(configuration, dict.fromkeys([*own, *kept.recipe_names()]), index)
    labelled = labelled_queries(configuration, gallery_ids(configuration))
    rows, precisions = [], []
    for recipe in found:
        begun = time.perf_counter()
        try:
            values = labelled_precisions(configuration, recipe, labelled)
        except Top7Error as error:
            if names:
                raise
            log.warning(f"top7: left out: recipe {recipe.name}: {error}")
            continue
        row = {"recipe": recipe.name, **mean_figures(values, labelled)}
        row["seconds"] = round(time.perf_counter() - begun, 3)
        if "simulated" in recipe.scores:
            row["simulated"] = recipe.scores["simulated"]
        keep_named(configuration, recipe, values, labelled)
        rows.append(row)
        precisions.append(values)
    if not rows:
        raise ConfigurationError(
            f"{configuration.path}: no recipe fits this configuration: run ./run.sh tune"
        )
    gains = [compare(each, precisions[0], labelled.groups, two_sided=True) for each in precisions[1:]]
    for row, gain, p in zip(rows[1:], gains, holm([gain.p for gain in gains]), strict=True):
        row |= {"gain": gain.gain, "interval": gain.interval and list(gain.interval), "p": p}
        row |= {"wins": gain.wins, "ties": gain.ties, "losses": gain.losses}
    metric = figure_name(configuration.competition.metric, configuration.competition.top_k)
    return Outcome({"recipes": rows}, _comparison(rows, metric))


def _comparison(rows: Sequence[dict], metric: str) -> str:
    parts = ("public", "private", "all", "simulated")
    lines = [["recipe", *parts, f"gain over {rows[0]['recipe']}", "95 %", "p", "better/equal/worse"]]
    for row in rows:
        gain = ["", "", "", ""]
        if "gain" in row:
            interval = row["interval"]
            gain = [
                f"{row['gain']:+.4f}",
                "{:+.4f} to {:+.4f}".format(*interval) if interval else "one group: none",
                f"{row['p']:.3f}" if row["p"] >= 0.0005 else "<0.001",
                f"{row['wins']}/{row['ties']}/{row['losses']}",
            ]
        found = [f"{row[part]:.4f}" if part in row else "-" for part in parts]
        lines.append([row["recipe"], *found, *gain])
    return (
        table(lines, left=(0,), spare=(4, 8))
        + f"\n{metric}; gains over groups of queries. p: how often chance alone "
        "makes such a difference, by flipping signs, corrected for the number of recipes (Holm). simulated: the study's "
        "figure on photos made of gallery images, where it has one"
    )
