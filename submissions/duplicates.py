"""Gallery images of the same content, or that look alike: in groups, and lists that hold none of them twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas
from scipy.cluster.hierarchy import DisjointSet

from competition.atomic import write_text
from competition.configuration import Configuration
from competition.errors import Top7Error
from features.components import Component, choices, components_of, full_name
from features.descriptors import gallery_ids, open_components
from features.dumps import Dump
from features.extraction import exact_duplicates, near_duplicates
from features.ranked_lists import RankedLists, ranked_lists
from features.recipes.recipe import Recipe
from submissions.outcome import Outcome

SHOWN_GROUPS, SHOWN_IDS = 10, 7
DEEPER = 4  # how many times as many rows are ranked where a list came out too short


def duplicates(configuration: Configuration, near: float | None = None) -> Outcome:
    """Group equal files, or (near) of images chained by that cosine or more.

    All groups are in a CSV under work/duplicates: group, id and, of images that look alike, the highest cosine with
    another of the group.
    """
    ids = gallery_ids(configuration)
    if near is None:
        first = exact_duplicates(configuration)
        pairs: Iterable[tuple[int, int, float]] = (
            (int(earlier), row, 1.0) for row, earlier in enumerate(first) if earlier != row
        )
        name, alike = "exact", "files of the same content"
    else:
        component, dump = look_dump(configuration, ids)
        pairs = near_duplicates(dump, near)
        name, alike = f"near-{near:g}", f"images with a cosine of {near:g} or more in {full_name(component)}"
    groups, cosines = grouped(pairs)
    images = sum(map(len, groups))
    largest = [[ids[row] for row in rows] for rows in groups[:SHOWN_GROUPS]]
    values = {"groups": len(groups), "images": images, "largest": largest}
    if not groups:
        return Outcome(values, f"no two gallery {alike}")
    listed = [(number, row) for number, rows in enumerate(groups, start=1) for row in rows]
    found = pandas.DataFrame(
        {"group": [number for number, _ in listed], "id": [ids[row] for _, row in listed]}
    )
    if near is not None:
        found["cosine"] = [f"{cosines[row]:.6f}" for _, row in listed]
    path = configuration.competition.work / "duplicates" / f"{name}.csv"
    values["csv"] = str(write_text(path, found.to_csv(index=False, lineterminator="\n")))
    lines = [f"{alike}: {len(groups)} group{'s' * (len(groups) > 1)}, {images} images", str(path)]
    for rows, names in zip(groups, largest):
        more = f" and {len(rows) - SHOWN_IDS} more" if len(rows) > SHOWN_IDS else ""
        lines.append(f"  {len(rows):>5}  {', '.join(names[:SHOWN_IDS])}{more}")
    if len(groups) > SHOWN_GROUPS:
        lines.append(f"  the {SHOWN_GROUPS} largest groups of {len(groups)}")
    return Outcome(values, "\n".join(lines))


def grouped(pairs: Iterable[tuple[int, int, float]]) -> tuple[list[list[int]], dict[int, float]]:
    """Return (groups of rows, largest first, then by first row; the highest cosine of each row) of pairs of rows.

    Memory: what is in a group, not the pairs.
    """
    joined = DisjointSet()
    cosines: dict[int, float] = {}
    for first, second, cosine in pairs:
        for row in (first, second):
            joined.add(row)
            cosines[row] = max(cosine, cosines.get(row, cosine))
        joined.merge(first, second)
    groups = [sorted(rows) for rows in joined.subsets()]
    return sorted(groups, key=lambda rows: (-len(rows), rows[0])), cosines


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


def distinct_lists(
    configuration: Configuration, recipe: Recipe, split: str, query_ids: Sequence[str], distinct: bool | float
) -> RankedLists:
    """Return the lists of a recipe in which no file's content is twice; distinct: True, or see `distinct_looks`."""
    ids, first = gallery_ids(configuration), exact_duplicates(configuration)
    repeated = first != np.arange(len(first))

    def lists_of(depth: int | None = None) -> RankedLists:
        return ranked_lists(configuration, recipe, split, query_ids, ids, k=depth, left_out=repeated)

    if distinct is True:
        return lists_of()
    _, dump = look_dump(configuration, ids)
    listable = int((~(repeated | dump.unreadable)).sum())
    return distinct_looks(lists_of, dump, distinct, configuration.competition.top_k, listable)


def distinct_looks(
    lists_of: Callable[[int], RankedLists], dump: Dump, threshold: float, k: int, n_listable: int
) -> RankedLists:
    """The lists of k rows in which no two look alike, from lists as deep as it takes.

    lists_of: ranked lists of a depth, at most the n_listable rows that may be listed. Top7Error: a query for which so
    many rows do not differ.
    """
    depth = min(k, n_listable)
    while True:
        lists = lists_of(depth)
        places = first_of_each_look(lists.ranks, dump.descriptors, threshold, k)
        short = np.flatnonzero(places[:, -1] < 0)
        if not len(short) or depth == n_listable:
            break
        depth = min(depth * DEEPER, n_listable)
    if len(short):
        query, there = lists.query_ids[short[0]], int((places[short[0]] >= 0).sum())
        few = f"query {query!r} has {there} answers that differ so much: expected {k}"
        raise Top7Error(f"--distinct {threshold:g}: {few}; choose a higher cosine")
    ranks, scores = (np.take_along_axis(values, places, 1) for values in (lists.ranks, lists.scores))
    return replace(lists, ranks=ranks, scores=scores)
