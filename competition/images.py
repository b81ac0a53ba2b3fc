"""The images of a split: ids, paths and the one row order, sorted by id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from competition.configuration import SPLITS, Configuration
from competition.errors import ConfigurationError, Top7Error

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class PathList(Sequence):
    """Paths kept as text: 520,000 pathlib objects would take several times the memory. Items are `Path`."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, item):
        if isinstance(item, slice):
            return PathList(self.texts[item])
        return Path(self.texts[item])


@dataclass(frozen=True)
class ImageSet:
    """Row r is the image `ids[r]` in the file `paths[r]`; `others` are the files that are no images."""

    ids: tuple[str, ...]
    paths: PathList
    others: PathList = field(default=PathList(()), compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: Iterable[int]) -> ImageSet:
        """The images of the given rows, in the order given."""
        rows = [int(row) for row in rows]
        return ImageSet(
            tuple(self.ids[row] for row in rows),
            PathList(tuple(self.paths.texts[row] for row in rows)),
            self.others,
        )


def list_images(folder: Path | str, *, origin: str = "") -> ImageSet:
    """List the images below `folder`, sorted by id; the id is the file name without its extension.

    Hidden files and folders (leading dot) are passed over; files with another extension are returned as
    `others`.
    origin: where the folder's name comes from, put before messages ("config.toml: [competition] gallery").
    Top7Error: no such folder, no image in it, one id twice, an id that would break a CSV line.
    """
    before = f"{origin}: " if origin else ""
    if not os.path.isdir(folder):
        found = "is a file" if os.path.exists(folder) else "does not exist"
        raise Top7Error(f"{before}the image folder {folder} {found}: expected a folder of images")
    found: list[tuple[str, str]] = []
    others: list[str] = []
    for path, name in _files(os.fspath(folder)):
        stem, extension = os.path.splitext(name)
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
    for number, (stem, path) in enumerate(found):
        if number and found[number - 1][0] == stem:
            raise Top7Error(
                f"{before}the id {stem!r} stands for two images, {found[number - 1][1]} and {path}: "
                "rename or remove one"
            )
        _check_id(stem, path, before)
    return ImageSet(
        tuple(stem for stem, _ in found),
        PathList(tuple(path for _, path in found)),
        PathList(tuple(sorted(others))),
    )


def _files(folder: str) -> Iterable[tuple[str, str]]:
    """(path, name) of every file below `folder` that is not hidden; links to folders are followed once."""
    waiting, seen = [folder], set()
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        waiting.append(entry.path)
                    else:
                        yield entry.path, entry.name
        except OSError as error:
            raise Top7Error(f"{current}: the folder cannot be read: {error.strerror}") from None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be opened
        return False


def _check_id(stem: str, path: str, before: str) -> None:
    """An id stands in CSV lines and in .ids files: no separators, quotes, line ends, blanks at the ends."""
    if stem != stem.strip() or not stem.isprintable() or "," in stem or '"' in stem:
        raise Top7Error(
            f"{before}the file name of {path!r} makes an id that would break a CSV: "
            "rename it without commas, quotes, line ends, unprintable characters, leading or trailing blanks"
        )


def split_images(configuration: Configuration, split: str) -> ImageSet:
    """The images of "gallery", "validation" or "test" of a configuration; its file is named in errors."""
    if split not in SPLITS:
        raise ConfigurationError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    folder = getattr(configuration.competition, split)
    if folder is None:
        raise ConfigurationError(
            f"{configuration.path}: [competition] has no {split}: add {split} = … with the folder "
            "of its images"
        )
    return list_images(folder, origin=f"{configuration.path}: [competition] {split}")


def sample_images(images: ImageSet, limit: int, seed: int, always: Iterable[str] = ()) -> ImageSet:
    """A seeded sample of `limit` images that holds all of `always` (ids), in row order.

    Where `always` alone is more than `limit`, the result is `always` (more than `limit` rows: the caller says
    so). With the same seed and `always`, a smaller sample is part of a larger one. Top7Error: an id that is
    not there.
    """
    if limit < 1:
        raise ConfigurationError(f"a sample of {limit} images: expected at least 1")
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    kept = np.zeros(len(images), dtype=bool)
    for image_id in always:
        if image_id not in row_of:
            raise Top7Error(
                f"the image {image_id!r} must be in the sample but is not among the {len(images)} images"
            )
        kept[row_of[image_id]] = True
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
