"""What a folder of images holds: gallery, queries and labels by their common names, formats, sizes, what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from competition.errors import Top7Error
from competition.images import ImageSet, list_images
from competition.labels import folder_labels, read_labels
from features.images.decode_ahead import opened
from features.images.decoding import FORMATS, set_up_pillow

NAMES = {
    "gallery": ("gallery", "index", "database", "db", "train", "images"),
    "validation": ("validation", "val", "valid", "query", "queries"),
    "test": ("test", "testing"),
}
LOOKED_AT = 200  # images of a split whose headers are read
SMALL_PX = 64
MOST_LISTED = 8  # folders; more are taken for classes


@dataclass
class Contents:
    """What a folder holds.

    folders, images: by split; labels: a file, "folders" or None; correct: images per labelled query; sizes: (n, 2)
    pixels by split, of those looked at; unsure: what could not be told, and what was taken instead.
    """

    folder: Path
    folders: dict[str, Path] = field(default_factory=dict)
    images: dict[str, ImageSet] = field(default_factory=dict)
    ids: str = "name"
    labels: Path | str | None = None
    correct: list[int] = field(default_factory=list)
    formats: dict[str, Counter] = field(default_factory=dict)
    sizes: dict[str, np.ndarray] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)


def contents_of(folder: Path) -> Contents:
    """Look at `folder`; Top7Error where it holds no images or their names cannot be ids."""
    found = Contents(folder)
    if not folder.is_dir():
        raise Top7Error(f"{folder}: expected a folder of images")
    inside = _folders(folder)
    if len(inside) == 1 and any(
        path.name.lower() in names for path in _folders(inside[0]) for names in NAMES.values()
    ):
        inside = _folders(inside[0])
    for split, names in NAMES.items():
        known = [path for name in names for path in inside if path.name.lower() == name]
        if known:
            found.folders[split] = known[0]
        if len(known) > 1:
            others = f"{', '.join(path.name for path in known[1:])} could be it, too, and is left out"
            found.unsure.append(f"{split}: {known[0].name} is taken; {others}")
    if "gallery" not in found.folders:
        _gallery_without_a_name(found, [path for path in inside if path not in found.folders.values()])
    _list(found)
    _find_labels(found)
    for split, images in found.images.items():
        _read_headers(found, split, images)
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _gallery_without_a_name(found: Contents, others: Sequence[Path]) -> None:
    """Take the folder itself where no part of it has a known name, else the other folder with the most images."""
    known = ", ".join(NAMES["gallery"])
    counts = {path: sum(1 for each in path.rglob("*") if each.is_file()) for path in others}
    if not found.folders:
        found.folders["gallery"] = found.folder
        found.unsure.append(f"gallery: no folder is named {known}: all images of {found.folder} are taken")
        if 1 < len(counts) <= MOST_LISTED:
            listed = ", ".join(f"{path.name} {count}" for path, count in counts.items())
            found.unsure.append(
                f"queries: the files of its folders: {listed}: where one holds queries, write validation = … or test = … "
                "and gallery = … with their names"
            )
        return
    if not counts:
        raise Top7Error(
            f"{found.folder}: no folder of gallery images beside the queries: name it one of {known}"
        )
    found.folders["gallery"] = max(others, key=counts.__getitem__)
    found.unsure.append(
        f"gallery: no folder is named {known}: {found.folders['gallery'].name} is taken, which has the most files"
    )


def _list(found: Contents) -> None:
    """List the images; where names clash, ids are paths in all splits."""
    try:
        found.images = {split: list_images(path) for split, path in found.folders.items()}
    except Top7Error as error:
        if 'ids = "path"' not in str(error):
            raise
        found.ids = "path"
        found.images = {split: list_images(path, ids="path") for split, path in found.folders.items()}
        found.odd.append("the same file name is in several folders: ids are paths")
    for split, images in found.images.items():
        others = [Path(path).name for path in images.others if not path.lower().endswith(".csv")]
        if others:
            found.odd.append(f"{split}: {len(others)} files are no images by their extension, as {others[0]}")


def _find_labels(found: Contents) -> None:
    """The label file whose content names queries and gallery images; else folders of the same paths in both."""
    if "validation" not in found.images:
        found.unsure.append(
            f"validation: no folder is named {', '.join(NAMES['validation'])}: there are no labelled queries"
        )
        return
    queries, gallery, reasons, fitting = found.images["validation"].ids, found.images["gallery"].ids, [], []
    files = sorted({*found.folder.glob("*.csv"), *found.folder.glob("*/*.csv")})
    for path in files:
        try:
            labels = read_labels(path, query_ids=queries, gallery_ids=gallery)
            fitting.append((path, [len(correct) for correct in labels.values()]))
        except Top7Error as error:
            reasons.append(f"labels: {path.name} is not taken ({error})")
    if fitting:
        found.labels, found.correct = fitting[0]
        taken = f"labels: {fitting[0][0].name} is taken"
        found.unsure += [f"{taken}; {path.name} fits, too, and is left out" for path, _ in fitting[1:]]
        return
    found.unsure += reasons
    try:
        by_path = {split: list_images(path, ids="path") for split, path in found.folders.items()}
        labels = folder_labels(by_path["validation"].ids, by_path["gallery"].ids)
    except Top7Error:
        found.unsure.append("labels: no *.csv names these queries and gallery images, no folder is in both")
        return
    found.ids, found.labels, found.images = "path", "folders", by_path
    found.correct = [len(correct) for correct in labels.values()]


def _read_headers(found: Contents, split: str, images: ImageSet) -> None:
    """Formats and sizes of some images, evenly spread, and what is odd about them."""
    rows = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).round().astype(int))
    formats: Counter[str | None] = Counter()
    sizes, unreadable, misnamed = [], [], 0
    set_up_pillow()
    for row in rows:
        path = Path(images.paths[row])
        try:
            stream, _ = opened(path)
            with stream, Image.open(stream, formats=FORMATS) as image:
                formats[image.format] += 1
                sizes.append(image.size)
                named = Image.registered_extensions().get(path.suffix.lower())
                misnamed += named is None or image.format not in (named, "MPO")
        except Exception:  # Pillow's plugins raise many kinds on damage; extraction gives each image's reason
            unreadable.append(path.name)
    found.formats[split], found.sizes[split] = formats, np.array(sizes, dtype=int).reshape(-1, 2)
    small = int((found.sizes[split].max(axis=1) < SMALL_PX).sum()) if sizes else 0
    of = f"of {len(rows)} images looked at"
    for count, words in (
        (len(unreadable), f"cannot be read, as {unreadable[0] if unreadable else ''}"),
        (misnamed, "are of another format than their names say (read all the same)"),
        (small, f"have no side of {SMALL_PX} pixels"),
    ):
        found.odd += [f"{split}: {count} {of} {words}"] * bool(count)
