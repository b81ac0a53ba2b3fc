"""A whitened component (count, dimension, exponent) as a dump of its own.

It is made from the count's projection when it is first asked for, and kept: a prefix of its columns, scaled,
L2-normalised, with its own norms.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from competition.errors import ConfigurationError, Top7Error
from features.components import PartsSetting
from features.dumps import Dump, bad_rows, beside, open_dump, write_dump
from features.dumps.derived import made_once
from features.dumps.layout import Place
from features.dumps.seals import CHECKED_BYTES
from features.parts.part_model import open_parts
from features.whitening import unit_rows


def make_whitened(setting: PartsSetting, place: Place) -> None:
    """Make the dump of a setting of part detectors at its place, unless it is there.

    Top7Error: the projection for this count was not extracted, or the part detectors were not learnt.
    """
    path, table, projection = place.path, place.table, place.projection
    assert table is not None and projection is not None
    where = f"[[backbone]] {table.backbone}, parts of layer {table.parts.layer!r}"
    if setting.dim > max(table.parts.dims):
        raise ConfigurationError(
            f"{where}: dimension {setting.dim} exceeds the largest of its dims, {max(table.parts.dims)}"
        )
    if not beside(projection, ".json").exists():
        if beside(path, ".json").exists():  # in a bundle, which leaves projections out
            return
        raise Top7Error(
            f"{projection}: no such dump: {where}, {setting.count} detectors need one more pass of the images through"
            f" {table.recipe['model']}: run ./run.sh extract (the other dumps are kept)"
        )
    source = open_dump(projection)

    def make() -> None:
        recipe = source.recipe | {"dim": setting.dim, "exponent": setting.exponent}
        scales = open_parts(table).scales(setting.count, setting.dim, setting.exponent)
        write_whitened(source, path, recipe, scales, half=table.parts.half)

    made_once(path, lambda: path if _is_there(path, source) else None, make)


def _is_there(path: Path, source: Dump) -> bool:
    """Complete, and made from these very rows of the projection; up to a size every row is read."""
    try:
        made = open_dump(path)
    except Top7Error:  # not there, or damaged: made again
        return False
    if made.ids != source.ids or made.sidecar.get("source_sums") != _digest(source):
        return False
    return made.descriptors.nbytes > CHECKED_BYTES or not len(bad_rows(path))


def _digest(source: Dump) -> str:
    return hashlib.sha256(beside(source.path, ".sums.npy").read_bytes()).hexdigest()[:16]


def write_whitened(source: Dump, path: Path, recipe: dict, scales: np.ndarray, *, half: bool = False) -> Path:
    """Write the rows source[:, :dim] * scales (dim,) float64, L2-normalised, as a dump; returns `path`.

    The norms beside them are those of the image's scaled projection before L2.
    """

    def rows(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        block = source.descriptors[start:stop, : len(scales)].astype(np.float64) * scales
        unit, lengths = unit_rows(block)
        return unit, lengths * source.norms[start:stop]

    return write_dump(
        path,
        rows,
        shape=(len(source.descriptors), len(scales)),
        dtype="float16" if half else "float32",
        unreadable={entry["row"]: entry["reason"] for entry in source.sidecar["unreadable"]},
        ids=source.ids,
        recipe=recipe,
        source=source.path.name,
        source_sums=_digest(source),
    )
