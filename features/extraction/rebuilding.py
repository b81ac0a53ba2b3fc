"""What stands beside finished dumps, made again where it is gone or damaged: the record of the images (norms and
checksums stand beside each dump too, and the files can be read again), and a sidecar (its neighbours say the same).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.images import ImageSet
from competition.messages import log
from competition.progress import Progress
from features.dumps import DamagedSidecar, beside, column_sum, read_sidecar
from features.dumps.disk import Disk
from features.dumps.layout import Target
from features.dumps.seals import sealed_text
from features.extraction.dump_group import record_type
from features.extraction.hashing import content_hash, file_stamp


def record_is_whole(record: Path, sidecar: Mapping) -> bool:
    """Whether the record that `sidecar` names is there with all its rows."""
    size_bytes = record_type(len(sidecar["columns"])).itemsize * sidecar["shape"][0]
    return record.is_file() and record.stat().st_size == size_bytes


def sidecar_of(target: Target) -> dict | None:
    """The sidecar of a target's dump, None where there is none; a damaged one is written again from that of a dump of
    the same extraction, and where there is none the dump counts as not there.
    """
    path = beside(target.path, ".json")
    if not path.exists():
        return None
    try:
        found = read_sidecar(target.path)
        if "images" in found:
            return found
        damage = f"{path}: names no record of the images"
    except DamagedSidecar as error:
        damage = str(error).partition(": run ")[0]
    for other in sorted(target.path.parent.glob("*.json")):
        try:
            sidecar = read_sidecar(other.with_suffix(".npy"))
            matrix = np.load(target.path, mmap_mode="r", allow_pickle=False)
        except Exception:  # damaged too, or no dump
            continue
        same_rows = target.path.name in sidecar.get("columns", ()) and len(matrix) == len(sidecar["ids"])
        if not same_rows or matrix.ndim != 2 or matrix.dtype != target.dtype:
            continue
        sidecar |= {"shape": list(matrix.shape), "dtype": target.dtype, "recipe": dict(target.recipe)}
        sidecar["column_sum"] = column_sum(matrix).tolist()
        Disk().write_file(path, sealed_text(sidecar).encode())
        log.warning(f"{damage}: written again by what {other.name} says")
        return read_sidecar(target.path)
    log.warning(f"{damage}: no other dump says the same: its rows are computed again")
    return None


def rebuild_record(record: Path, sidecar: Mapping, images: ImageSet) -> None:
    """Write the record anew; every file is read for its hash, and taken for the one that was extracted."""
    log.warning(
        f"{record}: missing or cut off: made anew from the dumps and the {sidecar['shape'][0]} image files; whether "
        "one of these has changed since cannot be told"
    )
    records = np.zeros(sidecar["shape"][0], dtype=record_type(len(sidecar["columns"])))
    for column, name in enumerate(sidecar["columns"]):
        for kind in ("norms", "sums"):
            values = _column(beside(record.parent / name, f".{kind}.npy"), len(records))
            if values is not None:  # where none is left the zeros fit no row, and it is computed anew
                records[kind][:, column] = values
    _, records["by"] = settings_by_row(sidecar["settings"], len(records))
    row_of = {image_id: row for row, image_id in enumerate(images.ids)}
    for row, image_id in enumerate(Progress(sidecar["ids"], desc="hash", unit="img", leave=False)):
        try:
            now = row_of[image_id]
            path, view = images.paths.texts[now], images.view(now)
            records["size_bytes"][row], records["mtime_ns"][row] = file_stamp(path)
            records["sha256"][row] = np.frombuffer(content_hash(path, view), dtype=np.uint8)
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
