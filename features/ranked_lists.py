"""A recipe and dumps in, ranked lists out: the one function that submit, score and predict share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import SIMULATED, Configuration
from features.descriptors import open_components
from features.dumps import Dump
from features.dumps.budget import budget, cache_bytes
from features.ranking.photos import judging_dumps, learns_from_labels, photos_for, teaching_parts
from features.ranking.state import Photos, start
from features.ranking.steps import StepEntry, apply_steps, used_components
from features.recipes.recipe import Recipe


@dataclass(frozen=True)
class RankedLists:
    """ranks: (Q, k) int64 gallery rows, best first; scores: (Q, k) float64, canonical; ids in row order.

    unreadable: query ids whose image could not be read; their lists are the first gallery rows.
    """

    query_ids: tuple[str, ...]
    gallery_ids: tuple[str, ...]
    ranks: np.ndarray
    scores: np.ndarray
    unreadable: tuple[str, ...]


def rank_dumps(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[StepEntry],
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64, best first, after checked `steps`; options: see `start`.

    -1 and -inf for missing. An unreadable query gets the first gallery rows.
    """
    return apply_steps(start(queries, gallery, weights, k, **options), steps).lists(k)


def ranked_lists(
    configuration: Configuration,
    recipe: Recipe,
    split: str,
    query_ids: Sequence[str] | None,
    gallery_ids: Sequence[str] | None,
    *,
    k: int | None = None,
    folder: Path | None = None,
    left_out: np.ndarray | None = None,
    photos: Photos | None = None,
) -> RankedLists:
    """Rank the gallery for every query of `split` (or of the dumps in `folder`) under `recipe`.

    Components of weight 0 are not opened, unless a step of the recipe weighs them itself. ids: the rows expected, None
    for those the dumps hold, of "simulated" the photos wanted; left_out: (n,) bool, further rows never listed; photos:
    what the steps learn from, where the configuration is a reduced one. Where steps learn from labelled queries, each
    of these is ranked by what the labels of others taught.
    """
    used = used_components(recipe.weights, recipe.groups, recipe.steps)
    components = [recipe.components[number] for number in used]
    if split == SIMULATED:
        queries = judging_dumps(configuration, components, query_ids or ())
    else:
        queries = open_components(configuration, components, split, query_ids, folder)
    gallery = open_components(configuration, components, "gallery", gallery_ids)
    no_query = np.logical_or.reduce([dump.unreadable for dump in queries])
    groups = [recipe.groups[number] if recipe.groups else number for number in used]
    work = Path(configuration.competition.work)
    kept_bytes = cache_bytes(configuration.tuning.cache_gib, [dump.descriptors for dump in gallery])

    def ranked(unseen: Collection[str] = ()) -> tuple[np.ndarray, np.ndarray]:
        learnt = photos or photos_for(
            configuration, components, recipe.steps, gallery[0].ids, unseen, photos_judge=split == SIMULATED
        )
        return rank_dumps(
            queries,
            gallery,
            recipe.weight_array[used],
            recipe.steps,
            k or configuration.competition.top_k,
            groups=groups,
            left_out=left_out,
            folder=work / "ranking" if recipe.steps else None,
            progress=True,
            photos=learnt,
            simulated=len(queries[0].ids) if split == SIMULATED else 0,
        )

    with budget(work, kept_bytes):
        ranks, scores = ranked()
        taught = configuration.competition.labelled and any(map(learns_from_labels, recipe.steps))
        if split == "validation" and photos is None and taught:
            for part in teaching_parts(configuration, gallery[0].ids):
                rows = np.isin(queries[0].ids, part)
                ranks[rows], scores[rows] = (found[rows] for found in ranked(part))
    unreadable = tuple(queries[0].ids[row] for row in np.flatnonzero(no_query))
    return RankedLists(tuple(queries[0].ids), tuple(gallery[0].ids), ranks, scores, unreadable)
