"""Descriptors made elsewhere ([[external]]), brought into row order and L2-normalised, as dumps like all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.configuration import External
from competition.errors import Top7Error
from features.dumps import read_sidecar, write_dump
from features.dumps.dump import is_complete
from features.dumps.layout import external_path, external_recipe, ids_path
from features.extraction.sample import SplitImages


def external_dumps(externals: Sequence[External], images: Mapping[str, SplitImages]) -> list[ExternalDump]:
    """Every [[external]] matrix of the splits; what is wrong with one is an error before anything is run."""
    return [
        ExternalDump(external, split, of)
        for external in externals
        for split, of in images.items()
        if getattr(external, split, None) is not None
    ]


class ExternalDump:
    """The matrix of a split of an [[external]], and the dump to make of it; bytes_needed: 0 where that is complete.

    The .npy has one row an id of the .ids file beside it, in any order. A row that is zero or not finite is
    marked unreadable. Top7Error: files missing or damaged, ids missing, doubled or too many (but for a sample),
    another shape.
    """

    def __init__(self, external: External, split: str, of: SplitImages) -> None:
        self.name, self.split, self.images = external.name, split, of.images
        source = Path(getattr(external, split))
        if not source.is_file():
            raise Top7Error(
                f"{source}: no such file: [[external]] {self.name} expects a .npy matrix, one row an id"
            )
        self.path = external_path(of.folder, external, split)
        self.recipe, self.bytes_needed = external_recipe(external, split), 0
        try:
            sidecar = read_sidecar(self.path)
            there = sidecar["ids"] == list(of.images.ids) and is_complete(self.path, sidecar)
        except Top7Error:  # not there, or damaged
            there = False
        if not there:
            self.matrix = _matrix(source)
            self.order = _order(source, len(self.matrix), of)
            names = sum(len(image_id) + 4 for image_id in of.images.ids)
            self.bytes_needed = len(of.images) * (4 * self.matrix.shape[1] + 8) + names

    def write(self) -> None:
        """Write the dump, unless it is there."""
        if not self.bytes_needed:
            return
        write_dump(
            self.path,
            self._rows,
            shape=(len(self.images), self.matrix.shape[1]),
            dtype="float32",
            ids=self.images.ids,
            recipe=self.recipe,
            unreadable=f"the row of [[external]] {self.name} is zero or not finite",
        )

    def _rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        given = np.asarray(self.matrix[self.order[start:stop]], dtype=np.float64)
        norms = np.sqrt(np.square(given).sum(1))
        good = np.isfinite(norms) & (norms > 0)
        unit = np.where(good[:, None], given / np.where(good, norms, 1)[:, None], 0)
        return unit, np.where(good, norms, 0)


def _matrix(source: Path) -> np.ndarray:
    try:
        found = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Top7Error(
            f"{source}: not a .npy matrix ({' '.join(str(error).split())}): expected float32 or float16 "
            "saved by numpy.save"
        ) from None
    if found.ndim != 2 or found.dtype.kind != "f" or not found.shape[1]:
        raise Top7Error(
            f"{source}: holds {found.shape} {found.dtype}: expected (rows, dimensions) of floating point"
        )
    return found


def _order(source: Path, rows: int, of: SplitImages) -> np.ndarray:
    """The matrix row of each image, (n,) int64."""
    images, path = of.images, ids_path(source)
    try:
        ids = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise Top7Error(f"{path}: not UTF-8: save the ids as UTF-8, one a line") from None
    row_of: dict[str, int] = {}
    for row, image_id in enumerate(ids):
        if row_of.setdefault(image_id, row) != row:
            raise Top7Error(
                f"{path}: line {row + 1}: the id {image_id!r} is on line {row_of[image_id] + 1} too"
            )
    missing = [image_id for image_id in images.ids if image_id not in row_of]
    if missing or (len(ids) != len(images) and not of.sampled):
        without = f"{len(missing)} images have none" + (f" (such as {missing[0]!r})" if missing else "")
        what = f"{len(ids)} ids for {len(images)} images"
        raise Top7Error(f"{path}: {what}: {without}: expected exactly the images' ids")
    if rows != len(ids):
        raise Top7Error(f"{source}: {rows} rows for the {len(ids)} ids beside it: expected one row an id")
    return np.array([row_of[image_id] for image_id in images.ids], dtype=np.int64)
