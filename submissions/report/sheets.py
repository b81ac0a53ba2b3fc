"""Retrieval sheets: each query beside the lists of every submission, what is right in them and what they miss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configured import split_images
from competition.errors import Top7Error
from competition.images import ImageSet
from competition.labels import read_labels
from competition.leaderboard import file_digest, read_rows
from competition.messages import log
from competition.metrics import query_figures
from features.components import short_names
from features.descriptors import open_components
from features.extraction import extracted_images
from features.search.similarity import component_similarity
from submissions.checking import Expected, read_submission
from submissions.report.pictures import Pictures
from submissions.report.ranked import Ranked, Scene
from submissions.writing import read_scores

SHOWN = 20  # images of a list; further ones are only counted
MOST_LISTS = 8  # submissions and recipes on a sheet
MOST_MISSED = 12  # correct images outside a list that are shown


@dataclass
class Lists:
    """One submission's answers.

    ranks: (Q, k) gallery rows; scores: (Q, k) or None; deep: (Q, more) or None; why: see `pulled_down`.
    """

    name: str
    ranks: np.ndarray
    scores: np.ndarray | None = None
    deep: np.ndarray | None = None
    note: str = ""
    why: Callable[[int, int, int], str] | None = None


def sheet(scene: Scene, split: str, labels: Path | None, pictures: Pictures) -> dict | None:
    """Return what the sheet of a split shows, as plain values; None where there is nothing to show."""
    top_k = scene.configuration.competition.top_k
    queries = split_images(scene.configuration, split)
    gallery = extracted_images(scene.configuration, "gallery")
    row_of = {name: row for row, name in enumerate(gallery.ids)}
    truth = _truth(scene, split, labels, queries, row_of)
    found = _lists(scene, split, queries, row_of)
    if not found:
        return None
    numbers, relevant = sorted(truth), [np.array(truth[number]) for number in sorted(truth)]
    values, means = {}, dict.fromkeys((each.name for each in found), 0.0)
    for each in found if truth else ():  # AP@k (or the other metric) of each labelled query
        figures = query_figures(each.ranks[numbers], relevant, top_k, scene.listed_metric)
        values[each.name] = dict(zip(numbers, figures.round(4).tolist()))
        means[each.name] = float(figures.mean())
    found.sort(key=lambda each: (each.name != scene.chosen, -means[each.name]))
    images: dict[int, int] = {}  # gallery row -> place in `pictured`
    pictured: list[list] = []

    def image(row: int) -> int:
        if row not in images:
            images[row] = len(pictured)
            pictured.append([gallery.ids[row], pictures.name(gallery, row)])
        return images[row]

    def missed(each: Lists, number: int) -> list[list]:
        last = int(each.ranks[number, -1])
        return [
            [image(row), place, each.why(number, row, last) if each.why else ""]
            for row, place in _missed(each, number, truth.get(number, ()))
        ]

    return {
        "split": split,
        "top_k": top_k,
        "queries": [[name, pictures.name(queries, row)] for row, name in enumerate(queries.ids)],
        "lists": [
            {
                "name": each.name,
                "note": each.note,
                "deep": each.deep is not None,
                "map": means[each.name] if truth else None,
                "precisions": [values.get(each.name, {}).get(number) for number in range(len(queries))],
                "ranks": [[image(row) for row in line[:SHOWN] if row >= 0] for line in each.ranks.tolist()],
                "scores": None if each.scores is None else np.round(each.scores[:, :SHOWN], 4).tolist(),
                "lead": None
                if each.scores is None
                else np.round(each.scores[:, 0] - each.scores[:, -1], 5).tolist(),
                "missed": [missed(each, number) for number in range(len(queries))],
            }
            for each in found[:MOST_LISTS]
        ],
        "correct": [
            sorted(images[row] for row in set(truth[number]) & images.keys()) if number in truth else None
            for number in range(len(queries))
        ],
        "images": pictured,
        "left_out": [each.name for each in found[MOST_LISTS:]],
        "labelled": bool(truth),
    }


def _truth(
    scene: Scene, split: str, labels: Path | None, queries: ImageSet, row_of: Mapping[str, int]
) -> dict[int, list[int]]:
    """Query number -> correct gallery rows."""
    if split == "validation":
        if scene.labelled is None:
            return {}
        return {number: list(map(int, rows)) for number, rows in enumerate(scene.labelled.relevant)}
    if labels is None:
        return {}
    told = read_labels(labels, query_ids=queries.ids, gallery_ids=tuple(row_of), complete=False)
    number_of = {name: number for number, name in enumerate(queries.ids)}
    return {number_of[query]: [row_of[name] for name in names] for query, names in told.items()}


def _lists(scene: Scene, split: str, queries: ImageSet, row_of: Mapping[str, int]) -> list[Lists]:
    """Return the submissions of a split; for validation also the ranked recipes that have no file."""
    competition = scene.configuration.competition
    recipe_of = {row.sha256: str(row.details.get("recipe", "")) for row in read_rows(scene.work)}
    found: list[Lists] = []
    expected = Expected({split: queries.ids}, tuple(row_of), competition.top_k, competition.submission)
    files = (scene.work / "submissions").glob("*.csv")
    for path in sorted(files, key=lambda path: (-path.stat().st_mtime, path.name)):  # the newest first
        if path.name.endswith(".scores.csv"):
            continue
        try:
            check = read_submission(path, expected)
        except Top7Error:
            continue  # of another split, or of another gallery
        ranks = check.ranks(queries.ids, expected.gallery_ids)
        try:
            scores = read_scores(path, queries.ids, competition.top_k)
        except Top7Error as error:
            log.warning(f"top7: {error}")
            scores = None
        recipe = recipe_of.get(file_digest(path), "")
        found.append(Lists(path.name, ranks, scores, note=f"recipe {recipe}" if recipe else ""))
    if split != "validation":
        return found
    for name, ranked in scene.ranked.items():
        ranks, scores = ranked.lists.ranks, ranked.lists.scores
        same = [each for each in found if np.array_equal(each.ranks, ranks[:, : competition.top_k])]
        why = pulled_down(scene, ranked)
        for each in same:
            each.deep, each.why = ranks, why
            if each.note == f"recipe {name}":
                each.name = name
        if not same:
            top = competition.top_k
            found.append(Lists(name, ranks[:, :top], scores[:, :top], ranks, "ranked for this report", why))
    return found


def pulled_down(scene: Scene, ranked: Ranked) -> Callable[[int, int, int], str]:
    """Return (query number, missed gallery row, last listed row) -> words, empty where a step makes the scores.

    Of a weighted sum of cosines the difference of two images is the sum of the components' own: the most negative is
    named.
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


def _missed(lists: Lists, query: int, correct: Sequence[int]) -> list[tuple[int, int]]:
    """(row, place) of the correct images that are not shown, nearest first; place 0: beyond what was ranked."""
    shown = set(lists.ranks[query, :SHOWN].tolist())
    deep = lists.ranks[query] if lists.deep is None else lists.deep[query]
    place = {row: number for number, row in enumerate(deep.tolist(), start=1)}
    missed = [(row, place.get(row, 0)) for row in dict.fromkeys(correct) if row not in shown]
    return sorted(missed, key=lambda each: (each[1] == 0, each[1], each[0]))[:MOST_MISSED]
