"""Recipes that no label chose, scored on the labelled queries, and kept with their figures."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.atomic import unless_read_only
from competition.configuration import SIMULATED, Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from competition.metrics import list_depth, query_figures
from features.descriptors import gallery_ids
from features.ranked_lists import ranked_lists
from features.ranking.steps import STEPS
from features.recipes.kept import (
    data_identity,
    find_recipe,
    keep_recipe,
    named_recipe,
    readable,
    recipe_names,
)
from features.recipes.patterns import NoMatch, say_unmatched
from features.recipes.recipe import NAMED, Recipe, resolve
from tuning.labelled import NOT_SIMULATED, Labelled, study_queries
from tuning.landscape import LARGE_GALLERY
from tuning.validation import figure_interval

WHOLE_GALLERY = tuple(name for name, kind in STEPS.items() if kind.whole_gallery)


def labelled_precisions(configuration: Configuration, recipe: Recipe, labelled: Labelled) -> np.ndarray:
    """Return AP@k of every query of a study under a recipe, by full ranking, (Q,) float64."""
    ids, competition = gallery_ids(configuration), configuration.competition
    depth = list_depth(competition.metric, competition.top_k, len(ids))
    count = int(labelled.real.sum())
    parts = {"validation": labelled.query_ids[:count], SIMULATED: labelled.query_ids[count:]}
    asked = [(split, queries) for split, queries in parts.items() if queries]
    found = [ranked_lists(configuration, recipe, *each, ids, k=depth).ranks for each in asked]
    judged = labelled.relevant, competition.top_k, competition.metric, labelled.junk
    return query_figures(np.concatenate(found), *judged)


def mean_figures(values: np.ndarray, labelled: Labelled) -> dict[str, float]:
    """Return MAP@k on the public, the private and all labelled queries, and on the simulated ones, from AP@k (Q,)."""
    real, private = labelled.real, labelled.private
    parts = {"public": real & ~private, "all": real, "private": real & private, "simulated": ~real}
    return {name: float(values[part].mean()) for name, part in parts.items() if part.any()}


def evaluated(configuration: Configuration, recipe: Recipe, values: np.ndarray, labelled: Labelled) -> Recipe:
    """Return an untuned recipe with its figures: nothing chose it, so that on all queries is a validated one.

    interval: 95 % of it, over groups; None for a single group.
    """
    reported = labelled.reported
    interval = figure_interval(values[reported], labelled.groups[reported])
    scores = {**mean_figures(values, labelled), "validated": float(values[reported].mean())}
    noted = {"data": data_identity(configuration, recipe.components), "interval": interval and list(interval)}
    return replace(recipe, scores=scores, provenance={**recipe.provenance, **noted})


def keep_named(configuration: Configuration, recipe: Recipe, values: np.ndarray, labelled: Labelled) -> None:
    """Keep a recipe that ships with top7 under work with its figures, from AP@k (Q,), so that they can be compared.

    Others are passed over. A better one that is there is kept under another name.
    """
    if recipe.provenance.get("source") != NAMED:
        return
    path = Path(configuration.competition.work) / "recipes" / f"{recipe.name}.json"
    with unless_read_only(f"{path}: the figures of {recipe.name} are not kept"):
        keep_recipe(path, evaluated(configuration, recipe, values, labelled), readable(path))


def fitting(configuration: Configuration, names: Iterable[str], index: str | None = None) -> list[Recipe]:
    """Return the recipes of these names that fit the configuration; says which do not. index: see `find_recipe`."""
    found, unmatched = [], {}
    for name in names:
        try:
            found.append(find_recipe(configuration, name, index))
        except NoMatch as error:
            unmatched[name] = error
        except ConfigurationError as error:
            log.warning(f"top7: left out: {error}")
    say_unmatched(unmatched)
    return found


def of_one_backbone(configuration: Configuration, names: Iterable[str]) -> list[Recipe]:
    """Return those of these recipes that take whatever backbones there are, of each alone, named <recipe>-<backbone>.

    A weak network beside a strong one, as equals, costs more than it brings. Empty where there are not several.
    """
    found: list[Recipe] = []
    for written in map(named_recipe, names if len(configuration.backbones) > 1 else ()):
        if any(pattern.get("backbone", "*") != "*" for pattern in written.patterns):
            continue
        for backbone in configuration.backbones:
            with suppress(ConfigurationError):  # not extracted of this one
                alone = resolve(written, replace(configuration, backbones=(backbone,)))
                if len(alone.components) < len(resolve(written, configuration).components):
                    name = f"{written.name}-{backbone.name}"
                    found.append(replace(alone, name=name, provenance={"source": NAMED}))
    return found


def score_named(configuration: Configuration) -> dict[str, float]:
    """Score every recipe that ships with top7 and keep it with its figures; what was not extracted is left out.

    Where labels judge, so are those `of_one_backbone`.
    """
    labelled = study_queries(configuration, gallery_ids(configuration))
    found = _scored(configuration, fitting(configuration, recipe_names()), labelled)
    if labelled.real.any():
        found |= _scored(configuration, of_one_backbone(configuration, list(found)), labelled)
    return found


def _scored(configuration: Configuration, recipes: Iterable[Recipe], labelled: Labelled) -> dict[str, float]:
    found = {}
    for recipe in recipes:
        try:
            steps = [str(step["step"]) for step in recipe.steps]
            whole = [step for step in steps if step in WHOLE_GALLERY]
            if whole and len(gallery_ids(configuration)) > LARGE_GALLERY:
                told = f"./run.sh compare {recipe.name} scores it"
                raise ConfigurationError(f"{whole[0]} takes long here: {told}")
            unjudged = [] if labelled.real.any() else [step for step in steps if step in NOT_SIMULATED]
            if unjudged:
                raise ConfigurationError(f"simulated photos cannot judge {unjudged[0]}, labels can")
            values = labelled_precisions(configuration, recipe, labelled)
        except Top7Error as error:
            log.warning(f"top7: recipe {recipe.name} was not scored: {error}")
            continue
        keep_named(configuration, recipe, values, labelled)
        found[recipe.name] = float(values[labelled.reported].mean())
    return found
