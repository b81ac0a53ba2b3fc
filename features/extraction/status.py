"""Which dumps are complete, which of their rows can be taken over, and the group that a pass fills."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.errors import ConfigurationError
from competition.images import ImageSet, ids_digest
from competition.messages import log
from features.dumps import DamagedSidecar, beside, read_sidecar
from features.dumps.disk import Disk
from features.dumps.dump import is_complete
from features.dumps.dump_writer import record_type
from features.dumps.journal import unfinished
from features.dumps.layout import Target
from features.dumps.writer import complete
from features.extraction.dump_group import IMAGE, DumpGroup, EarlierRows
from features.extraction.sample import SplitImages
from features.images.decode_ahead import content_hash, file_stamp


@dataclass(frozen=True)
class LackingDump:
    """A dump that is wanted and not complete.

    earlier: the sidecar of the dump there is, and its row of each image, (n,) int64, -1 where that is new or changed.
    damaged: it is of these very images, and yet not complete.
    """

    target: Target
    earlier: tuple[dict, np.ndarray] | None = None
    damaged: bool = False


def lacking_dumps(
    targets: Sequence[Target], of: SplitImages, *, check_content: bool = False, drop_gone: bool = True
) -> list[LackingDump]:
    """What there is of the targets of a split that are not complete; says what became of the images since.

    A file counts as changed if its size or time differs from what was recorded and its content hash too;
    check_content: hash every file, whatever its size and time. ConfigurationError, with the count, where finished
    dumps hold rows of images that are gone, unless drop_gone.
    """
    known: dict[str, np.ndarray | None] = {}  # by the record of the images
    found, ids, dumps, lost = [], list(of.images.ids), 0, list[str]()
    for target in targets:
        if (sidecar := _read(target.path)) is None:
            found.append(LackingDump(target))
            continue
        gone = sorted(set(sidecar["ids"]) - set(ids)) if sidecar["ids"] != ids else []
        if gone:
            dumps, lost = dumps + 1, max(lost, gone, key=len)
        record = sidecar.get("images", "")
        if record not in known:
            row_of = known[record] = _rows_of(target.path.parent / record, sidecar, of.images, check_content)
            if row_of is not None and (drop_gone or not gone):
                _tell(of.folder, sidecar["ids"], of.images, row_of)
        if (row_of := known[record]) is None:
            found.append(LackingDump(target))
            continue
        same = np.array_equal(row_of, np.arange(len(sidecar["ids"])))
        if not same or not is_complete(target.path, sidecar):
            found.append(LackingDump(target, (sidecar, row_of), damaged=same))
    if lost and not drop_gone:
        raise ConfigurationError(
            f"{of.source}: {len(lost)} images (such as {lost[0]!r}) are gone, of which {dumps} finished dumps in "
            f"{of.folder} have rows: is all of the folder mounted? ./run.sh extract --drop-gone drops these rows"
        )
    return found


def _read(path: Path) -> dict | None:
    try:
        return read_sidecar(path) if beside(path, ".json").exists() else None
    except DamagedSidecar as error:
        log.warning(f"{str(error).partition(': run ')[0]}: its rows are computed again")
        return None


def _tell(folder: Path, old_ids: Sequence[str], images: ImageSet, row_of: np.ndarray) -> None:
    """Say what became of the images since the dumps were made."""
    old, new = set(old_ids), set(images.ids)
    if grown := len(new - old):
        log.info(f"{folder}: {grown} new images: the dumps are extended by them")
    if lost := sorted(old - new):
        what = f"{len(lost)} images (such as {lost[0]!r})"
        log.warning(f"{folder}: {what} are gone: their rows are dropped")
    if changed := [images.ids[row] for row in np.flatnonzero(row_of < 0).tolist() if images.ids[row] in old]:
        what = f"{len(changed)} images (such as {changed[0]!r})"
        log.info(f"{folder}: {what} have other content than before: their rows are computed again")


def record_is_whole(record: Path, sidecar: Mapping) -> bool:
    """Whether the record of the images that `sidecar` names is there with all its rows."""
    size_bytes = record_type(len(sidecar["columns"]), IMAGE).itemsize * sidecar["shape"][0]
    return record.is_file() and record.stat().st_size == size_bytes


def _rows_of(record: Path, sidecar: Mapping, images: ImageSet, check_content: bool) -> np.ndarray | None:
    """Return the row that each image had, (n,) int64, -1 if new or of other content; None: its record is damaged.

    A file's time that changed alone is noted in the record.
    """
    if "images" not in sidecar or not record_is_whole(record, sidecar):
        log.warning(f"{record}: the record of the images is missing or cut off: all rows are computed again")
        return None
    records = np.array(np.memmap(record, dtype=record_type(len(sidecar["columns"]), IMAGE), mode="r"))
    old = {image_id: number for number, image_id in enumerate(sidecar["ids"])}
    row_of = np.array([old.get(image_id, -1) for image_id in images.ids], dtype=np.int64)
    retimed = False
    for row in np.flatnonzero(row_of >= 0).tolist():
        entry = records[row_of[row]]
        size_bytes, mtime_ns = file_stamp(images.paths[row])
        same = (size_bytes, mtime_ns) == (entry["size_bytes"], entry["mtime_ns"])
        if size_bytes < 0 or (same and not check_content):  # what cannot be looked at now takes no row away
            continue
        digest = content_hash(images.paths[row], images.view(row))
        if size_bytes != entry["size_bytes"] or digest not in (entry["sha256"].tobytes(), bytes(32)):
            row_of[row] = -1
        elif mtime_ns != entry["mtime_ns"] and digest != bytes(32):
            entry["mtime_ns"], retimed = mtime_ns, True
    if retimed and os.access(record.parent, os.W_OK):
        Disk().write_file(record, records.tobytes())
    return row_of


def recover(targets: Sequence[Target], folder: Path) -> None:
    """Give the names to dumps that an earlier run had complete when it stopped."""
    names = {target.path.name for target in targets}
    for journal, header in unfinished(folder):
        if not names.isdisjoint(header["files"]):
            complete(journal)


def group_for(
    found: Sequence[LackingDump], widths: Sequence[int], images: ImageSet, window_rows: int
) -> DumpGroup:
    """The group that makes every dump of `found`; widths: D of each.

    It goes on with an unfinished run of the same images that began these dumps, if it began others too.
    """
    targets = [dump.target for dump in found]
    dumps = {target.path.name: (width, target.dtype) for target, width in zip(targets, widths, strict=True)}
    wanted = ids_digest(images.ids), window_rows
    for _, header in unfinished(targets[0].path.parent):
        files = header["files"]
        if (header.get("ids"), header["window_rows"]) == wanted and dumps.keys() <= files.keys():
            dumps = {name: (shape[1], dtype) for name, (shape, dtype, *_) in files.items() if len(shape) == 2}
            break
    earlier = [(dump.target.path, *dump.earlier) for dump in found if dump.earlier is not None]
    taken = EarlierRows(earlier) if len(earlier) == len(found) else None
    return DumpGroup(targets, dumps, images.ids, window_rows, taken)
