"""A recipe and dumps in, ranked lists out: the one function that submit, score and predict share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from features.descriptors import open_components
from features.dumps import Dump, beside
from features.recipe import Recipe
from features.search import search


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


def ranked_lists(configuration: Configuration, recipe: Recipe, split: str, query_ids: Sequence[str] | None,
                 gallery_ids: Sequence[str] | None, *, k: int | None = None, folder: Path | None = None,
                 left_out: np.ndarray | None = None, progress: bool = False) -> RankedLists:
    """Rank the gallery for every query of `split` (or of the dumps in `folder`) under `recipe`.

    Components of weight 0 are not opened. ids: the rows expected, None for those the dumps hold; left_out: (n,) bool,
    further rows never listed.
    """
    used = [number for number, weight in enumerate(recipe.weights) if weight != 0]
    components = [recipe.components[number] for number in used]
    queries = open_components(configuration, components, split, query_ids, folder)
    gallery = open_components(configuration, components, "gallery", gallery_ids)
    no_row = np.logical_or.reduce([dump.unreadable for dump in gallery])
    if left_out is not None:
        no_row = no_row | left_out
    no_query = np.logical_or.reduce([dump.unreadable for dump in queries])
    k = k or configuration.competition.top_k
    if recipe.steps:
        ranks, scores = _after_steps(configuration, recipe, used, queries, gallery, no_row, k, progress)
    else:
        ranks, scores = search([dump.descriptors for dump in queries], [dump.descriptors for dump in gallery],
                               recipe.weight_array[used], k, excluded=no_row, progress=progress)
    unreadable = tuple(queries[0].ids[row] for row in np.flatnonzero(no_query))
    return RankedLists(tuple(queries[0].ids), tuple(gallery[0].ids), ranks, scores, unreadable)


def _after_steps(configuration: Configuration, recipe: Recipe, used: Sequence[int], queries: Sequence[Dump],
                 gallery: Sequence[Dump], excluded: np.ndarray, k: int, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Apply the recipe's steps; graphs and changed galleries are kept under work/ranking."""
    from features.ranking.steps import rank

    groups = [recipe.groups[number] if recipe.groups else number for number in used]
    return rank([dump.descriptors for dump in queries], [dump.descriptors for dump in gallery], recipe.weight_array[used],
                recipe.steps, k, excluded=excluded, groups=groups, identity=[_identity(dump) for dump in gallery],
                query_norms=[dump.norms for dump in queries], gallery_norms=[dump.norms for dump in gallery], unit=True,
                folder=Path(configuration.competition.work) / "ranking", progress=progress)


def _identity(dump: Dump) -> str:
    """What tells a gallery's rows apart from others': the dump's name and its rows' checksums."""
    sums = beside(dump.path, ".sums.npy").read_bytes()
    return f"{dump.path.name}-{hashlib.sha256(sums).hexdigest()[:16]}"
