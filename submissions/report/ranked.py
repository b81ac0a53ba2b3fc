"""The kept recipes ranked on the labelled queries: what the report's figures, intervals and places come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.configured import split_images
from competition.errors import Top7Error
from competition.metrics import WHOLE_LISTS, figure_label, query_figures
from competition.progress import Progress
from features.descriptors import gallery_ids
from features.ranked_lists import RankedLists, ranked_lists
from features.recipes.kept import choose, is_of_this_data, kept_recipes
from features.recipes.recipe import Recipe
from tuning.evaluating import LARGE_GALLERY, WHOLE_GALLERY, labelled_precisions
from tuning.labelled import Labelled, labelled_queries
from tuning.validation import figure_interval

DEPTH = 1000  # places looked at for the correct images that a list misses


@dataclass(frozen=True)
class Ranked:
    """A recipe's lists for the validation queries, DEPTH deep; precisions: AP@k (Q,), None without labels."""

    recipe: Recipe
    lists: RankedLists
    precisions: np.ndarray | None


@dataclass(frozen=True)
class Scene:
    """What all pages look at. labelled: None without labels; chosen: the recipe that submit takes; metric: in words.

    listed_metric: that of lists that end at top_k, MAP@k in place of a whole-list mAP, which they do not tell.
    """

    configuration: Configuration
    gallery_ids: tuple[str, ...]
    labelled: Labelled | None
    recipes: tuple[Recipe, ...]
    ranked: dict[str, Ranked]
    chosen: str | None
    work: Path
    metric: str
    listed_metric: str

    @property
    def judged(self) -> Labelled:
        """The labelled queries, for what is only shown where there are labels."""
        assert self.labelled is not None
        return self.labelled


def look(configuration: Configuration) -> Scene:
    """Rank every kept recipe that is of this data; one that would take long on a large gallery is left out."""
    ids, competition = gallery_ids(configuration), configuration.competition
    labelled = labelled_queries(configuration, ids) if competition.labelled else None
    recipes = tuple(kept_recipes(configuration))
    usable = [recipe for recipe in recipes if is_of_this_data(configuration, recipe)]
    ranked = {}
    queries: tuple[str, ...] = () if labelled is None else labelled.query_ids
    if labelled is None and competition.validation is not None:
        queries = tuple(split_images(configuration, "validation").ids)
    for recipe in Progress(recipes if queries else (), desc="rank by each recipe", unit="recipe"):
        if len(ids) > LARGE_GALLERY and any(step["step"] in WHOLE_GALLERY for step in recipe.steps):
            continue  # it compares all gallery images with each other, which takes hours
        try:
            lists = ranked_lists(configuration, recipe, "validation", queries, ids, k=min(DEPTH, len(ids)))
        except Top7Error:
            continue
        if labelled is None:
            precisions = None
        elif competition.metric == WHOLE_LISTS:
            precisions = labelled_precisions(configuration, recipe, labelled)
        else:
            precisions = query_figures(lists.ranks, labelled.relevant, competition.top_k, competition.metric)
        ranked[recipe.name] = Ranked(recipe, lists, precisions)
    chosen = choose(usable)[0].name if usable else None
    listed = "map" if competition.metric == WHOLE_LISTS else competition.metric
    metric = figure_label(competition.metric, competition.top_k)
    return Scene(configuration, ids, labelled, recipes, ranked, chosen, competition.work, metric, listed)


def figures(values: np.ndarray, labelled: Labelled) -> dict[str, dict]:
    """Return mean and 95 % interval of AP@k (Q,) on the public, the private and all labelled queries."""
    found = {}
    masks = {"public": labelled.public, "private": labelled.private, "all": np.full(len(values), True)}
    for name, mask in masks.items():
        if mask.any():
            interval = figure_interval(values[mask], labelled.groups[mask])
            found[name] = {"mean": float(values[mask].mean()), "interval": interval}
    return found
