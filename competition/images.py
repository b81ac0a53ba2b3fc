"""Sets of images: ids, paths and the one row order, sorted by id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from competition.errors import Top7Error

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .webp .bmp .tif .tiff .avif .jp2 .j2k .mpo .ppm .pgm .pbm .qoi".split()
)

LISTED = 20  # names in a message

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Region:
    """What of an image file is described: quarter turns counter-clockwise first, then the box left, top, right, bottom."""

    box: Box | None = None
    turns: int = 0

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """The box in whole pixels of an image (turned already); None where it is not inside, within one pixel."""
        left, top, right, bottom = (round(edge) for edge in self.box or (0, 0, width, height))
        inside = left >= -1 and top >= -1 and right <= width + 1 and bottom <= height + 1
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        return (left, top, right, bottom) if inside and left < right and top < bottom else None


@dataclass(frozen=True)
class ImageSet:
    """Row r is the image `ids[r]` in the file `paths[r]`; `others` are the files that are no images.

    Paths are text: half a million pathlib objects would take several times the memory. seeds: one a row where the
    rows are photos simulated of these files; regions: one a row (None: the whole image) where rows are parts of these
    files or turned; otherwise empty.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    others: tuple[str, ...] = field(default=(), compare=False)
    seeds: tuple[int, ...] = ()
    regions: tuple[Region | None, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def view(self, row: int) -> int | Region | None:
        """The seed of the photo that a row is, or the region of its file; None: it is the image in the file."""
        if self.seeds:
            return self.seeds[row]
        return self.regions[row] if self.regions else None

    def where(self, wanted: Callable[[str], object]) -> ImageSet:
        """The images whose id is `wanted`, in row order."""
        return self.rows(row for row, image_id in enumerate(self.ids) if wanted(image_id))

    def rows(self, rows: Iterable[int]) -> ImageSet:
        """The images of the given rows, in the order given."""
        rows = [int(row) for row in rows]
        return ImageSet(
            tuple(self.ids[row] for row in rows),
            tuple(self.paths[row] for row in rows),
            self.others,
            tuple(self.seeds[row] for row in rows) if self.seeds else (),
            tuple(self.regions[row] for row in rows) if self.regions else (),
        )


def list_images(folder: Path | str, *, ids: str = "name", origin: str = "", blanks: bool = True) -> ImageSet:
    """List the images below `folder`, sorted by id; the id is the file name without its extension.

    Hidden files and folders (leading dot) are passed over; files with another extension are returned as
    `others`. ids: "path" makes the path below `folder`, without the extension and with / between folders, the
    id. origin: where the folder's name comes from, put before messages ("config.toml: [competition]
    gallery"). blanks: whether an id may hold one. Top7Error: no such folder, no image in it, ids that two
    images have or that would break a CSV line (all of them in one message).
    """
    before = f"{origin}: " if origin else ""
    if not os.path.isdir(folder):
        there = "is a file" if os.path.exists(folder) else "does not exist"
        raise Top7Error(f"{before}the image folder {folder} {there}: expected a folder of images")
    found: list[tuple[str, str]] = []
    others: list[str] = []
    above = len(os.path.join(os.fspath(folder), ""))
    for path, name in _files(os.fspath(folder)):
        stem, extension = os.path.splitext(path[above:] if ids == "path" else name)
        if extension.lower() in EXTENSIONS:
            found.append((stem, path))
        else:
            others.append(path)
    if not found:
        raise Top7Error(
            f"{before}the image folder {folder} holds no image: expected files ending in "
            f"{', '.join(sorted(EXTENSIONS))}, found {len(others)} other files"
        )
    found.sort()
    faults = [*_broken(found, blanks), *_doubled(found, ids)]
    if faults:
        raise Top7Error(before + "; ".join(faults))
    names, paths = zip(*found)
    return ImageSet(names, paths, tuple(sorted(others)))


def _files(folder: str) -> Iterable[tuple[str, str]]:
    """(path, name) of every file below `folder` that is not hidden; links to folders are followed once."""

    def unreadable(error: OSError) -> NoReturn:
        raise Top7Error(f"{error.filename}: the folder cannot be read: {error.strerror}") from None

    seen: set[str] = set()
    for at, inside, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(at)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside[:] = [name for name in inside if not name.startswith(".")]
        yield from ((os.path.join(at, name), name) for name in names if not name.startswith("."))


def _broken(found: Sequence[tuple[str, str]], blanks: bool) -> list[str]:
    """What is wrong with the ids that cannot be in CSV lines and in .ids files."""
    wrong = [
        repr(path)
        for stem, path in found
        if stem != stem.strip() or not stem.isprintable() or set(stem) & set(',"' if blanks else '," ')
    ]
    ends = "leading or trailing blanks" if blanks else 'blanks (submission = "kaggle" puts them between ids)'
    without = f"without commas, quotes, line ends, unprintable characters, {ends}"
    if len(wrong) > 1:
        names = f"{len(wrong)} file names make ids that would break a CSV"
        return [f"{names}: rename them {without}: {_first(wrong)}"]
    return [
        f"the file name of {path} makes an id that would break a CSV: rename it {without}" for path in wrong
    ]


def _doubled(found: Sequence[tuple[str, str]], ids: str) -> list[str]:
    """What is wrong with the ids that several images have; `found` is sorted."""
    pairs = [(one, other) for one, other in zip(found, found[1:]) if one[0] == other[0]]
    if not pairs:
        return []
    way = "rename or remove one"
    if ids == "name" and all(os.path.dirname(one[1]) != os.path.dirname(other[1]) for one, other in pairs):
        way = 'write ids = "path" under [competition] to make the folder a part of every id, or rename'
    doubled = list(dict.fromkeys(one[0] for one, _ in pairs))
    if len(doubled) > 1:
        names = _first([repr(stem) for stem in doubled])
        return [f"{len(doubled)} ids are those of more than one image: {way}: {names}"]
    (stem, path), (_, other) = pairs[0]
    return [f"the id {stem!r} is that of two images, {path} and {other}: {way}"]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f", and {len(names) - LISTED} more" if len(names) > LISTED else "")


def sample_images(images: ImageSet, limit: int, seed: int, always: Iterable[str]) -> ImageSet:
    """A seeded sample of `limit` images that holds all of `always` (ids of them), in row order.

    Where `always` alone is more than `limit`, the result is `always` (more than `limit` rows: the caller says
    so). With the same seed and `always`, a smaller sample is part of a larger one.
    """
    named = frozenset(always)
    kept = np.array([image_id in named for image_id in images.ids])
    drawn = np.random.default_rng(seed).permutation(len(images))
    drawn = drawn[~kept[drawn]]
    kept[drawn[: max(0, limit - int(kept.sum()))]] = True
    return images.rows(np.flatnonzero(kept))


def ids_digest(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the ids in their order, one a line."""
    digest = hashlib.sha256()
    for image_id in ids:
        digest.update(image_id.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
