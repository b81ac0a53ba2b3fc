"""Descriptors made elsewhere ([[external]]), brought into row order and L2-normalised, as dumps like all others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from features.dumps import read_sidecar, write_dump
from features.dumps.dump import is_complete
from features.dumps.layout import external_dump_path, external_recipe, ids_path
from features.extraction.sample import SplitImages


@dataclass(frozen=True)
class ExternalDump:
    """The matrix of a split of an [[external]], `source`, and the dump to make of it.

    sampled: the matrix may have rows for other images, too.
    """

    name: str
    split: str
    source: Path
    images: ImageSet
    path: Path
    recipe: dict
    sampled: bool


def external_dumps(configuration: Configuration, images: dict[str, SplitImages]) -> list[ExternalDump]:
    """Every [[external]] matrix of the splits; a missing file is an error before anything is run."""
    dumps = []
    for external in configuration.externals:
        for split, of in images.items():
            if (source := getattr(external, split, None)) is None:
                continue
            if not Path(source).is_file():
                raise Top7Error(
                    f"{source}: no such file: [[external]] {external.name} expects a .npy matrix, one row an id"
                )
            path = external_dump_path(configuration, split, external, of.folder)
            recipe = external_recipe(external, split)
            dumps.append(ExternalDump(external.name, split, source, of.images, path, recipe, of.sampled))
    return dumps


def external_bytes(dump: ExternalDump) -> int:
    """Bytes that `write_external` would write, 0 if the dump is there; reads no descriptor.

    Top7Error: as `write_external`, so that hours of extraction do not end with it.
    """
    if _is_complete(dump):
        return 0
    matrix = _matrix(dump.source)
    _order(dump, len(matrix))
    return len(dump.images) * (4 * matrix.shape[1] + 8) + sum(len(name) + 4 for name in dump.images.ids)


def write_external(dump: ExternalDump) -> None:
    """Write the dump of one split of an [[external]], unless it is there.

    The .npy has one row an id of the .ids file beside it, in any order. A row that is zero or not finite is
    marked unreadable. Top7Error: files missing or damaged, ids missing, doubled or too many (but for a sample),
    another shape.
    """
    if _is_complete(dump):
        return
    matrix = _matrix(dump.source)
    order = _order(dump, len(matrix))

    def rows(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        given = np.asarray(matrix[order[start:stop]], dtype=np.float64)
        norms = np.sqrt(np.square(given).sum(1))
        good = np.isfinite(norms) & (norms > 0)
        unit = np.where(good[:, None], given / np.where(good, norms, 1)[:, None], 0)
        return unit, np.where(good, norms, 0)

    write_dump(
        dump.path,
        rows,
        shape=(len(dump.images), matrix.shape[1]),
        dtype="float32",
        ids=dump.images.ids,
        recipe=dump.recipe,
        unreadable=f"the row of [[external]] {dump.name} is zero or not finite",
    )


def _is_complete(dump: ExternalDump) -> bool:
    try:
        sidecar = read_sidecar(dump.path)
    except Top7Error:  # not there, or damaged
        return False
    return sidecar["ids"] == list(dump.images.ids) and is_complete(dump.path, sidecar)


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


def _order(dump: ExternalDump, rows: int) -> np.ndarray:
    """The matrix row of each image, (n,) int64."""
    source, images, path = dump.source, dump.images, ids_path(dump.source)
    try:
        ids = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise Top7Error(f"{path}: no such file: expected the ids of {source}, one a line") from None
    except UnicodeDecodeError:
        raise Top7Error(f"{path}: not UTF-8: save the ids as UTF-8, one a line") from None
    row_of: dict[str, int] = {}
    for row, image_id in enumerate(ids):
        if row_of.setdefault(image_id, row) != row:
            raise Top7Error(
                f"{path}: line {row + 1}: the id {image_id!r} is on line {row_of[image_id] + 1} too"
            )
    missing = [image_id for image_id in images.ids if image_id not in row_of]
    if missing or (len(ids) != len(images) and not dump.sampled):
        raise Top7Error(
            f"{path}: {len(ids)} ids for {len(images)} images: {len(missing)} images have none"
            + (f" (such as {missing[0]!r})" if missing else "")
            + ": expected exactly the images' ids"
        )
    if rows != len(ids):
        raise Top7Error(f"{source}: {rows} rows for the {len(ids)} ids beside it: expected one row an id")
    return np.array([row_of[image_id] for image_id in images.ids], dtype=np.int64)
