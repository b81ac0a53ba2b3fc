"""The record of the images beside a finished extraction, made anew where it is gone or cut off: norms and checksums
stand beside each dump too, and the files can be read again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from competition.images import ImageSet
from features.dumps import beside
from features.extraction.disk import Disk
from features.extraction.hashing import content_hash, file_stamp
from features.extraction.partial import record_type


def record_is_whole(record: Path, sidecar: Mapping) -> bool:
    """Whether the record that `sidecar` names is there with all its rows."""
    size_bytes = record_type(len(sidecar["columns"])).itemsize * sidecar["shape"][0]
    return record.is_file() and record.stat().st_size == size_bytes


def rebuild_record(record: Path, sidecar: Mapping, images: ImageSet) -> None:
    """Write the record anew; every file is read for its hash, and taken for the one that was extracted."""
    print(
        f"{record}: missing or cut off: made anew from the dumps and the {sidecar['shape'][0]} image files; whether "
        "one of these has changed since cannot be told",
        file=sys.stderr,
    )
    records = np.zeros(sidecar["shape"][0], dtype=record_type(len(sidecar["columns"])))
    for column, name in enumerate(sidecar["columns"]):
        for kind in ("norms", "sums"):
            values = _column(beside(record.parent / name, f".{kind}.npy"), len(records))
            if values is not None:  # where none is left the zeros fit no row, and it is computed anew
                records[kind][:, column] = values
    _, records["by"] = settings_by_row(sidecar["settings"], len(records))
    path_of = dict(zip(images.ids, images.paths.texts))
    for row, image_id in enumerate(
        tqdm(sidecar["ids"], desc="hash", unit="img", file=sys.stderr, leave=False)
    ):
        try:
            records["size_bytes"][row], records["mtime_ns"][row] = file_stamp(path_of[image_id])
            records["sha256"][row] = np.frombuffer(content_hash(path_of[image_id]), dtype=np.uint8)
        except KeyError:
            records["size_bytes"][row] = records["mtime_ns"][row] = -1
    Disk().write_file(record, records.tobytes())


def settings_by_row(runs: Sequence[Mapping], rows: int) -> tuple[list[dict], np.ndarray]:
    """A sidecar's settings as distinct entries, and the number of each row's, (rows,) uint8."""
    settings: list[dict] = []
    by = np.zeros(rows, dtype=np.uint8)
    for run in runs:
        entry = {key: value for key, value in run.items() if key != "rows"}
        if entry not in settings:
            settings.append(entry)
        by[run["rows"][0] : run["rows"][1]] = settings.index(entry)
    return settings, by


def _column(path: Path, rows: int) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows,) else None
