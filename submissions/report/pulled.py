"""Why a correct image is missing from a list: the component by which it falls furthest behind the last one listed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features.components import short_names
from features.descriptors import open_components
from features.similarity import component_similarity
from submissions.report.ranked import Ranked, Scene


def pulled_down(scene: Scene, ranked: Ranked) -> Callable[[int, int, int], str]:
    """Return (query number, missed gallery row, last listed row) -> words, empty where a step makes the scores.

    Of a weighted sum of cosines the difference of two images is the sum of the components' own: the most negative is named.
    """
    recipe = ranked.recipe
    if recipe.steps:
        return lambda query, missed, last: ""
    queries = open_components(scene.configuration, recipe.components, "validation", ranked.lists.query_ids)
    gallery = open_components(scene.configuration, recipe.components, "gallery", ranked.lists.gallery_ids)
    names = short_names(recipe.components)

    def words(query: int, missed: int, last: int) -> str:
        behind = np.zeros(len(names))
        for number, (of, rows) in enumerate(zip(queries, gallery)):
            found, listed = component_similarity(of.descriptors[query], rows.descriptors[[missed, last]])
            behind[number] = recipe.weights[number] * (found - listed)
        worst = int(behind.argmin())
        if len(names) < 2 or behind[worst] >= 0:
            return ""
        return f"{behind.sum():+.3f} to the last listed, most by {names[worst]} ({behind[worst]:+.3f})"

    return words
