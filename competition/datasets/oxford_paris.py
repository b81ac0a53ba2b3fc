"""Oxford5k and Paris6k as their archives unpack: images, and <query>_query.txt, _good.txt, _ok.txt, _junk.txt.

Oxford: oxbuild_images.tgz (5,063 images) and gt_files_170407.tgz; Paris: paris_1.tgz, paris_2.tgz (6,412 images, 20 of
them corrupt) and paris_120310.tgz, all from robots.ox.ac.uk/~vgg/data. They may lie in one folder or in folders below it.
Positives are good and ok; the query's own image is among them and stays in the gallery.
"""

from __future__ import annotations

from pathlib import Path

from competition.datasets.dataset import Dataset, Truth, boxed_queries, require
from competition.errors import Top7Error
from competition.images import Box, list_images

KINDS = ("good", "ok", "junk")
PREFIX = "oxc1_"  # precedes every image in Oxford's query files


def load(folder: Path, name: str) -> Dataset:
    """Read the images and the ground truth below `folder`; Top7Error, one line, for what is missing or wrong."""
    folder = Path(folder)
    images = list_images(folder)
    queries = query_files(folder)
    named: dict[str, str] = {}  # image -> what names it first
    boxes, lists = [], []
    for query, path in queries.items():
        image_id, box = _query(path)
        named.setdefault(image_id, f"the ground truth ({path.name} and others)")
        boxes.append((query, image_id, box))
        kinds = {kind: _names(path.with_name(f"{query}_{kind}.txt")) for kind in KINDS}
        for kind, ids in kinds.items():
            for each in ids:
                named.setdefault(each, f"the ground truth ({query}_{kind}.txt and others)")
        lists.append(kinds)
    require(named, images.ids, folder)
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    truth = Truth(
        tuple(frozenset(row_of[each] for each in kinds["good"] | kinds["ok"]) for kinds in lists),
        tuple(frozenset(row_of[each] for each in kinds["junk"]) for kinds in lists),
    )
    return Dataset(name, images, boxed_queries(images, boxes, str(folder)), {"all": truth})


def query_files(folder: Path) -> dict[str, Path]:
    """Query name -> its _query.txt, sorted; Top7Error where there is none."""
    found = {path.name.removesuffix("_query.txt"): path for path in sorted(folder.rglob("*_query.txt"))}
    if not found:
        raise Top7Error(
            f"{folder}: no ground truth there: expected files <query>_query.txt, _good.txt, _ok.txt and _junk.txt, "
            "unpacked from the ground-truth archive"
        )
    return dict(sorted(found.items()))


def _query(path: Path) -> tuple[str, Box]:
    fields = _text(path).split()
    try:
        left, top, right, bottom = map(float, fields[1:])
    except ValueError:
        raise Top7Error(
            f"{path}: {' '.join(fields)!r:.80}: expected one line, an image and the four numbers of its box"
        ) from None
    return fields[0].removeprefix(PREFIX), (left, top, right, bottom)


def _names(path: Path) -> set[str]:
    return {line.strip() for line in _text(path).splitlines() if line.strip()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Top7Error(f"{path}: missing: unpack the whole ground-truth archive there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Top7Error(f"{path}: cannot be read as text: {error}") from None
