"""Lists that hold no picture twice: gallery images of the same content, and on request those that look alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from features.components import Component, choices, components_of
from features.descriptors import open_components
from features.dumps import Dump
from features.ranked_lists import RankedLists

DEEPER = 4  # how many times as many rows are ranked where a list came out too short


def look_dump(configuration: Configuration, ids: Sequence[str]) -> tuple[Component, Dump]:
    """The gallery's dump that says which images look alike: the deepest layer's, else the last component's."""
    found = components_of(configuration, {name: values[0] for name, values in choices(configuration).items()})
    component = next((one for one in reversed(found) if one.pooling is not None), found[-1])
    return component, open_components(configuration, [component], "gallery", ids)[0]


def first_of_each_look(ranks: np.ndarray, descriptors: np.ndarray, threshold: float, k: int) -> np.ndarray:
    """Places (Q, k) int64 in each list of the best rows that look different; -1 where a list is too short.

    No row has a cosine of `threshold` or more to a better one kept. ranks: (Q, depth) int64 rows of `descriptors`, best
    first, -1 for none; descriptors: (n, D), L2-normalised, of which only these rows are read.
    """
    places = np.full((len(ranks), k), -1, dtype=np.int64)
    for query, rows in enumerate(ranks):
        rows = rows[rows >= 0]
        looks = np.asarray(descriptors[rows], dtype=np.float64)
        alike = looks @ looks.T >= threshold
        kept: list[int] = []
        for place in range(len(rows)):
            if not alike[place, kept].any():
                kept.append(place)
                if len(kept) == k:
                    break
        places[query, : len(kept)] = kept
    return places


def distinct_looks(
    lists_of: Callable[[int], RankedLists], dump: Dump, threshold: float, k: int, n_listable: int
) -> RankedLists:
    """The lists of k rows in which no two look alike, from lists as deep as it takes.

    lists_of: ranked lists of a depth, at most the n_listable rows that may be listed. Top7Error: a query for which so
    many rows do not differ.
    """
    depth = k
    while True:
        depth = min(depth, n_listable)
        lists = lists_of(depth)
        places = first_of_each_look(lists.ranks, dump.descriptors, threshold, k)
        short = np.flatnonzero(places[:, -1] < 0)
        if not len(short):
            break
        if depth == n_listable:
            query, there = lists.query_ids[short[0]], int((places[short[0]] >= 0).sum())
            few = f"query {query!r} has {there} answers that differ so much: expected {k}"
            raise Top7Error(f"--distinct {threshold:g}: {few}; choose a higher cosine")
        depth *= DEEPER
    ranks, scores = (np.take_along_axis(values, places, 1) for values in (lists.ranks, lists.scores))
    return replace(lists, ranks=ranks, scores=scores)
