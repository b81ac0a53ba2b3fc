"""A whitened component (count, dimension, exponent) as a dump of its own, made from the count's projection when first
asked for, and kept: a prefix of its columns, scaled, L2-normalised, with its own norms."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
from filelock import FileLock

from competition.atomic import sync_folder, write_bytes
from competition.configuration import Backbone, Configuration, Parts
from competition.errors import ConfigurationError, Top7Error
from features.dumps import Dump, beside, column_sum, open_dump, row_sums, sidecar_for
from features.parts.blocks import reserve
from features.whitening import unit_rows

ROWS_A_BLOCK = 8192


def whitened_dump(
    configuration: Configuration,
    split: str,
    backbone: Backbone,
    parts: Parts,
    count: int,
    dim: int,
    exponent: float,
    *,
    folder: Path | None = None,
) -> Path:
    """Return the path of the component's dump, made now if it is not there yet.

    Top7Error: the projection for this count was not extracted, or the part detectors were not learnt.
    """
    from features.extraction.learning import open_part_model
    from features.extraction.targets import component_dump_path

    where = f"[[backbone]] {backbone.name}, parts of layer {parts.layer!r}"
    if dim > max(parts.dims):
        raise ConfigurationError(
            f"{where}: dimension {dim} exceeds the largest of its dims, {max(parts.dims)}"
        )
    named = {"parts": parts, "count": count, "folder": folder}
    path = component_dump_path(configuration, split, backbone, dim=dim, exponent=exponent, **named)
    projection = component_dump_path(configuration, split, backbone, **named)
    if not beside(projection, ".json").exists():
        if beside(
            path, ".json"
        ).exists():  # a bundle holds components without the projection they were made from
            return path
        raise Top7Error(
            f"{projection}: no such dump: {where}, {count} detectors need one more pass of the {split} images through"
            f" {backbone.model}: run ./run.sh extract (the other dumps are kept)"
        )
    source = open_dump(projection)
    if _is_there(path, source):
        return path
    with FileLock(path.with_name(f".{path.name}.lock")):  # several workers of a study may want it at once
        if not _is_there(path, source):
            model = open_part_model(configuration, backbone, parts)
            recipe = source.recipe | {"dim": dim, "exponent": exponent}
            write_whitened(source, path, recipe, model.scales(count, dim, exponent), half=parts.half)
    return path


def _is_there(path: Path, source: Dump) -> bool:
    """Complete, and made from these very rows of the projection."""
    if not beside(path, ".json").exists():
        return False
    try:
        made = open_dump(path)
    except Top7Error:  # damaged: made again
        return False
    return made.ids == source.ids and made.sidecar.get("source_sums") == _digest(source)


def _digest(source: Dump) -> str:
    return hashlib.sha256(beside(source.path, ".sums.npy").read_bytes()).hexdigest()[:16]


def write_whitened(source: Dump, path: Path, recipe: dict, scales: np.ndarray, *, half: bool = False) -> Path:
    """Write the rows source[:, :dim] * scales (dim,) float64, L2-normalised, block by block; returns `path`.

    The norms beside them are those of the image's scaled projection before L2. Memory: one block of rows, and eight
    bytes a row. Top7Error where the disk is full.
    """
    n, dim = len(source.descriptors), len(scales)
    dtype = "float16" if half else "float32"
    norms, sums = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.uint32)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        rows = reserve(partial, (n, dim), dtype)
        for start in range(0, n, ROWS_A_BLOCK):
            block = slice(start, start + ROWS_A_BLOCK)
            unit, lengths = unit_rows(source.descriptors[block, :dim].astype(np.float64) * scales)
            rows[block] = unit
            norms[block] = lengths * source.norms[block]
            sums[block] = row_sums(rows[block], norms[block])
        rows.flush()
        # the sidecar of older rows must not stand beside new ones
        beside(path, ".json").unlink(missing_ok=True)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    for suffix, column in ((".norms.npy", norms), (".sums.npy", sums)):
        stream = io.BytesIO()
        np.save(stream, column, allow_pickle=False)
        write_bytes(beside(path, suffix), stream.getvalue())
    sidecar = sidecar_for(
        shape=(n, dim),
        dtype=dtype,
        ids=source.ids,
        recipe=recipe,
        unreadable=source.sidecar["unreadable"],
        source=source.path.name,
        source_sums=_digest(source),
        column_sum=column_sum(rows).tolist(),
    )
    sync_folder(path.parent)
    write_bytes(beside(path, ".json"), json.dumps(sidecar, ensure_ascii=False).encode() + b"\n")
    return path
