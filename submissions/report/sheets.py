"""Retrieval sheets: each query beside the lists of every submission, what is right in them and what they miss.

Their pictures are small JPEG files, made once, named by a digest and never after a path of the data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from competition.atomic import write_bytes
from competition.configured import split_images
from competition.errors import Top7Error
from competition.images import ImageSet, Region
from competition.labels import read_labels
from competition.leaderboard import file_digest, read_rows
from competition.messages import log
from competition.metrics import query_figures
from competition.progress import Progress
from features.components import short_names
from features.descriptors import open_components
from features.extraction import extracted_images
from features.images.decode_ahead import read_picture
from features.images.simulated_photos import jpeg_bytes
from features.images.sizing import Sizing
from features.search.similarity import component_similarity
from submissions.checking import Expected, read_submission
from submissions.report.ranked import Ranked, Scene
from submissions.submitting import read_scores

SHOWN = 20  # images of a list; further ones are only counted
MOST_LISTS = 8  # submissions and recipes on a sheet
MOST_MISSED = 12  # correct images outside a list that are shown
SIDES = ((1_500, 400), (6_000, 224), (20_000, 128))  # up to so many pictures, the longer side in pixels
QUALITY = 78
GREY = (200, 200, 200)


class Pictures:
    """Pictures asked for by file; `make` writes them once all are known, since their number decides their size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: dict[str, tuple[str, int | Region | None]] = {}

    def name(self, images: ImageSet, row: int) -> str | None:
        """Return the stem of an image's picture; None once there are too many."""
        path, view = images.paths[row], images.view(row)
        try:
            found = os.stat(path)
            stamp = f"{found.st_size} {found.st_mtime_ns} {view} ".encode()
        except OSError:  # gone, or a link to nowhere
            stamp = b"gone "
        stem = hashlib.sha256(stamp + os.fsencode(path)).hexdigest()[:16]
        if stem not in self._asked and len(self._asked) >= SIDES[-1][0]:
            return None
        self._asked[stem] = path, view
        return stem

    def make(self) -> Path:
        """Write the pictures that are not there, remove those nobody asks for; returns their folder's name."""
        side = next(side for most, side in SIDES if len(self._asked) <= most)
        sizing, place = Sizing(image_size=side, resize="keep"), self.folder / str(side)
        wanted = {place / f"{stem}.jpg": asked for stem, asked in self._asked.items()}
        kept = set(self.folder.glob("*/*.jpg"))

        def write(file: Path) -> None:
            pixels = read_picture(0, wanted[file][0], (sizing,), wanted[file][1]).pixels
            picture = Image.new("RGB", (side, side), GREY) if pixels is None else Image.fromarray(pixels[0])
            write_bytes(file, jpeg_bytes(picture, QUALITY))

        missing = [file for file in wanted if file not in kept]
        with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
            for _ in Progress(pool.map(write, missing), total=len(missing), unit="image", desc="pictures"):
                pass
        for file in kept - wanted.keys():
            file.unlink()
        return Path(self.folder.name) / str(side)


@dataclass
class Lists:
    """One submission's answers.

    ranks: (Q, k) gallery rows; scores: (Q, k) or None; deep: (Q, more) or None; why: see `pulled_down`; precisions:
    query number -> AP@k, their mean in `map`, where there are labels.
    """

    name: str
    ranks: np.ndarray
    scores: np.ndarray | None = None
    deep: np.ndarray | None = None
    note: str = ""
    why: Callable[[int, int, int], str] = lambda query, missed, last: ""
    precisions: Mapping[int, float] = field(default_factory=dict)
    map: float | None = None


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
    for each in found if truth else ():
        figures = query_figures(each.ranks[numbers], relevant, top_k, scene.listed_metric)
        each.precisions, each.map = dict(zip(numbers, figures.round(4).tolist())), float(figures.mean())
    found.sort(key=lambda each: (each.name != scene.chosen, -(each.map or 0.0)))
    images: dict[int, int] = {}  # gallery row -> its number on the sheet

    def image(row: int) -> int:
        return images.setdefault(row, len(images))

    def missed(each: Lists, number: int) -> list[list]:
        """The correct images that are not shown, nearest first, with their places; 0: beyond what was ranked."""
        shown = set(each.ranks[number, :SHOWN].tolist())
        deep = each.ranks if each.deep is None else each.deep
        place = {row: place for place, row in enumerate(deep[number].tolist(), start=1)}
        rows = [row for row in dict.fromkeys(truth.get(number, ())) if row not in shown]
        rows.sort(key=lambda row: (place.get(row, len(gallery) + 1), row))
        last = int(each.ranks[number, -1])
        return [[image(row), place.get(row, 0), each.why(number, row, last)] for row in rows[:MOST_MISSED]]

    def listed(each: Lists) -> dict:
        scores = each.scores
        return {
            "name": each.name,
            "note": each.note,
            "deep": each.deep is not None,
            "map": each.map,
            "precisions": [each.precisions.get(number) for number in range(len(queries))],
            "ranks": [[image(row) for row in line[:SHOWN] if row >= 0] for line in each.ranks.tolist()],
            "scores": None if scores is None else np.round(scores[:, :SHOWN], 4).tolist(),
            "lead": None if scores is None else np.round(scores[:, 0] - scores[:, -1], 5).tolist(),
            "missed": [missed(each, number) for number in range(len(queries))],
        }

    return {
        "split": split,
        "top_k": top_k,
        "queries": [[name, pictures.name(queries, row)] for row, name in enumerate(queries.ids)],
        "lists": [listed(each) for each in found[:MOST_LISTS]],
        "correct": [
            sorted(images[row] for row in set(truth[number]) & images.keys()) if number in truth else None
            for number in range(len(queries))
        ],
        "images": [[gallery.ids[row], pictures.name(gallery, row)] for row in images],
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
    for name, ranked in scene.ranked.items() if split == "validation" else ():
        ranks, scores, top = ranked.lists.ranks, ranked.lists.scores, competition.top_k
        why = pulled_down(scene, ranked)
        same = [each for each in found if np.array_equal(each.ranks, ranks[:, :top])]
        for each in same:
            each.deep, each.why = ranks, why
            if each.note == f"recipe {name}":
                each.name = name
        if not same:
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
