"""The leaderboard page: every submission and every kept recipe with its figures, in a table that can be sorted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from competition.leaderboard import Row, official_correlation, read_rows
from competition.leaderboard_text import PUBLISHED
from competition.metrics import CONVENTIONS, ranked_by
from features.recipes.kept import is_of_this_data, ranked_among
from features.recipes.recipe import Recipe
from submissions.recipe_tables import in_words
from submissions.report.ranked import Scene, figures

CONVENTION = CONVENTIONS[0]
SAME = 5e-5  # figures that print alike


def leaderboard(scene: Scene) -> dict[str, object]:
    """Return what the page shows."""
    measured = {
        name: figures(ranked.precisions, scene.judged)
        for name, ranked in scene.ranked.items()
        if ranked.precisions is not None
    }
    scores = {recipe.name: recipe.scores for recipe in scene.recipes}
    noted = read_rows(scene.work, ranked_among(scene.configuration))
    sent = {row.details.get("recipe") for row in noted}
    unsent = [_unsent(scene, recipe, measured) for recipe in scene.recipes if recipe.name not in sent]
    rows = [_shown(row, measured, scores) for row in [*noted, *unsent]]
    plotted: dict[str, dict] = {}
    rows.sort(key=lambda row: (not row["comparable"], -(row["all"]["mean"] if row["all"] else -1.0)))
    for row in rows:
        if row["all"] and row["comparable"]:
            plotted.setdefault(str(row["recipe"] or row["file"]), row)
    pairs, correlation = official_correlation(noted)
    published = PUBLISHED.get(scene.configuration.competition.published or "", ())
    ends = [0.01, *(each.map7 for each in published)]
    ends += [(row["all"]["interval"] or [row["all"]["mean"]])[-1] for row in rows if row["all"]]
    return {
        "rows": rows,
        "plotted": plotted,
        "columns": {column for row in rows for column, value in row.items() if value not in (None, "")},
        "recipes": [{"name": recipe.name, "words": in_words(recipe)} for recipe in scene.recipes],
        "published": sorted(published, key=lambda each: -each.map7),
        "chosen": scene.chosen,
        "pairs": pairs,
        "correlation": correlation,
        "scale": min(1.0, 1.02 * max(ends)),  # the plot's right edge
    }


def _unsent(scene: Scene, recipe: Recipe, measured: Mapping[str, Mapping]) -> Row:
    """The row of a kept recipe that no submission was written of."""
    metric, scores = scene.configuration.competition.metric, recipe.scores
    current = is_of_this_data(scene.configuration, recipe) or recipe.name in measured
    return Row(
        "",
        "",
        maps={ranked_by(metric): scores["all"]} if "all" in scores else {},
        public=scores.get("public"),
        private=scores.get("private"),
        cross_validated=scores.get("cross-validated"),
        data={"metric": metric},
        unlike="" if current else "its figures are of other data",
        details={"recipe": recipe.name},
    )


def _shown(row: Row, measured: Mapping[str, Mapping], scores: Mapping[str, Mapping]) -> dict[str, Any]:
    """A submission, or a recipe without one. Intervals are the recipe's where that still gives the recorded figure."""
    recipe = str(row.details.get("recipe", ""))
    remark = f"{row.unlike}: not comparable" if row.unlike else str(row.details.get("figures_of", ""))
    known = {part: each for part, each in measured.get(recipe, {}).items() if part != "all" or not row.unlike}
    lacking = row.local is None and row.file != ""
    parts = {"all": row.local, "public": row.public, "private": row.private}
    parts["cross_validated"] = row.cross_validated
    return {
        "recipe": recipe,
        "known": recipe in scores,
        "file": row.file,
        "split": row.split or "",
        **{part: _with_interval(value, known.get(part)) for part, value in parts.items()},
        "official": row.official,
        "simulated": scores.get(recipe, {}).get("simulated"),
        "moved": row.moved,
        "date": (row.recorded or "").replace("T", " ")[:16],
        "comparable": not row.unlike and not lacking,
        "remark": "no local figure" if lacking else remark,
    }


def _with_interval(value: float | None, measured: Mapping | None) -> dict | None:
    """A recorded figure with the interval of the measured one, where that is the same; without one, what was measured."""
    if value is None:
        return None if measured is None else dict(measured)
    same = measured is not None and abs(measured["mean"] - value) < SAME
    return {"mean": value, "interval": measured["interval"] if measured is not None and same else None}
