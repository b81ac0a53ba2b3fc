"""Which dumps are there, which are not, and which earlier rows can be taken over: the groups that a pass fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, ids_digest
from competition.messages import log
from features.dumps import DAMAGE, DamagedSidecar, beside, npy_header, read_sidecar
from features.dumps.disk import Disk
from features.dumps.dump_writer import record_type
from features.dumps.journal import read_journal
from features.dumps.layout import Target
from features.dumps.writer import complete
from features.extraction.dump_group import IMAGE, DumpGroup, unfinished_names
from features.extraction.earlier_dumps import EarlierDumps, mapped_rows, rows_of, settings_by_row
from features.extraction.image_files import content_hash, file_stamp


@dataclass(frozen=True)
class DumpStatus:
    """A target with its sidecar, if any; complete: nothing to do; changed: (n,) bool rows whose file changed."""

    target: Target
    sidecar: dict | None
    complete: bool
    changed: np.ndarray | None

    def damaged(self, images: ImageSet) -> bool:
        """Whether the images are those it was made of, and yet it is not complete."""
        if self.complete or self.sidecar is None or self.changed is None:
            return False
        return self.sidecar["ids"] == list(images.ids) and not bool(self.changed.any())


def dump_statuses(
    targets: Sequence[Target], images: ImageSet, *, check_content: bool = False
) -> list[DumpStatus]:
    """What there is of each target for these images; says what became of the images since.

    A file counts as changed if its size or time differs from what was recorded and its content hash too;
    check_content: hash every file, whatever its size and time.
    """
    changes: dict[str, np.ndarray | None] = {}
    found = []
    for target in targets:
        try:
            sidecar = read_sidecar(target.path) if beside(target.path, ".json").exists() else None
        except DamagedSidecar as error:
            log.warning(f"{str(error).partition(': run ')[0]}: its rows are computed again")
            sidecar = None
        record = sidecar.get("images", "") if sidecar else ""
        if sidecar is not None and record not in changes:
            changes[record] = _changed(target.path.parent / record, sidecar, images, check_content)
            if (changed := changes[record]) is not None:
                _tell(target.path.parent, sidecar["ids"], images, changed)
        changed = changes.get(record)
        if sidecar is None or changed is None:
            found.append(DumpStatus(target, None, False, None))
            continue
        rows, width = sidecar["shape"]
        size_bytes = len(npy_header((rows, width), target.dtype)) + rows * width * target.item_bytes
        complete = (
            sidecar["ids"] == list(images.ids)
            and not changed.any()
            and not beside(target.path, DAMAGE).exists()
            and all(beside(target.path, suffix).exists() for suffix in (".npy", ".norms.npy", ".sums.npy"))
            and target.path.stat().st_size == size_bytes
        )
        found.append(DumpStatus(target, sidecar, complete, changed))
    return found


def _tell(folder: Path, old_ids: Sequence[str], images: ImageSet, changed: np.ndarray) -> None:
    """One line on stderr on what became of the images since the dumps were made."""
    old, new = set(old_ids), set(images.ids)
    if grown := len(new - old):
        log.info(f"{folder}: {grown} new images: the dumps are extended by them")
    if lost := sorted(old - new):
        what = f"{len(lost)} images (such as {lost[0]!r})"
        log.warning(f"{folder}: {what} are gone: their rows are dropped, as asked")
    if changed.any():
        first = images.ids[int(np.flatnonzero(changed)[0])]
        what = f"{int(changed.sum())} images (such as {first!r})"
        log.info(f"{folder}: {what} have other content than before: their rows are computed again")


def record_is_whole(record: Path, sidecar: Mapping) -> bool:
    """Whether the record of the images that `sidecar` names is there with all its rows."""
    size_bytes = record_type(len(sidecar["columns"]), IMAGE).itemsize * sidecar["shape"][0]
    return record.is_file() and record.stat().st_size == size_bytes


def _changed(record: Path, sidecar: Mapping, images: ImageSet, check_content: bool) -> np.ndarray | None:
    """Return which images were there before with other content, (n,) bool; None where the record of them is damaged.

    A file's time that changed alone is noted in the record.
    """
    if "images" not in sidecar or not record_is_whole(record, sidecar):
        log.warning(f"{record}: the record of the images is missing or cut off: all rows are computed again")
        return None
    changed = np.zeros(len(images), dtype=bool)
    records = np.array(np.memmap(record, dtype=record_type(len(sidecar["columns"]), IMAGE), mode="r"))
    same = sidecar["ids"] == list(images.ids)
    row_of = np.arange(len(images)) if same else rows_of(sidecar["ids"], images.ids)
    retimed = False
    for row in np.flatnonzero(row_of >= 0).tolist():
        entry = records[row_of[row]]
        size_bytes, mtime_ns = file_stamp(images.paths[row])
        if (size_bytes, mtime_ns) == (entry["size_bytes"], entry["mtime_ns"]) and not check_content:
            continue
        if size_bytes < 0:  # a file that cannot be looked at now takes no finished row away
            continue
        if size_bytes == entry["size_bytes"] and (
            digest := content_hash(images.paths[row], images.view(row))
        ) == bytes(32):
            continue
        changed[row] = size_bytes != entry["size_bytes"] or digest != entry["sha256"].tobytes()
        if not changed[row] and mtime_ns != entry["mtime_ns"]:
            records["mtime_ns"][row_of[row]] = mtime_ns
            retimed = True
    if retimed and Disk().writable(record.parent):
        Disk().write_file(record, records.tobytes())
    return changed


def recover(targets: Sequence[Target], folder: Path, disk: Disk) -> None:
    """Give the names to dumps that an earlier run had complete when it stopped."""
    names = {target.path.name for target in targets}
    for journal in sorted(folder.glob(".*.journal")) if folder.is_dir() else []:
        lines, _ = read_journal(journal)
        if not lines or names.isdisjoint(unfinished_names(lines[0])):
            continue
        complete(journal, disk)
    disk.close()


def groups_for(
    found: Sequence[DumpStatus], widths: Mapping[Path, int], images: ImageSet, window_rows: int, disk: Disk
) -> list[DumpGroup]:
    """The groups that make every incomplete target: unfinished ones first, then one for each earlier state.

    widths: D of every target that is not complete, by path.
    """
    waiting = {status.target.path.name: status for status in found if not status.complete}
    if not waiting:
        return []
    folder = next(iter(waiting.values())).target.path.parent
    digest, groups = ids_digest(images.ids), []

    def group(members: Sequence[DumpStatus], dumps: Mapping[str, tuple[int, str]]) -> DumpGroup:
        targets = [member.target for member in members]
        return DumpGroup(targets, dumps, images.ids, window_rows, disk, _earlier(members, images))

    for journal in sorted(folder.glob(".*.journal")) if folder.is_dir() else []:
        lines, _ = read_journal(journal)
        if not lines or (lines[0].get("ids"), lines[0].get("window_rows")) != (digest, window_rows):
            continue
        files = lines[0].get("files", {})
        if mine := [waiting.pop(name) for name in files if name in waiting]:
            dumps = {name: (shape[1], dtype) for name, (shape, dtype, *_) in files.items() if len(shape) == 2}
            groups.append(group(mine, dumps))
    partition: dict[str, list[DumpStatus]] = {}
    for status in waiting.values():
        partition.setdefault(status.sidecar["images"] if status.sidecar else "", []).append(status)
    for members in partition.values():
        targets = [member.target for member in members]
        groups.append(group(members, {t.path.name: (widths[t.path], t.dtype) for t in targets}))
    return groups


def _earlier(members: Sequence[DumpStatus], images: ImageSet) -> EarlierDumps | None:
    """The rows of complete but outdated or damaged dumps, where all are of one extraction."""
    sidecar = members[0].sidecar
    if sidecar is None or any(
        member.sidecar is None or member.sidecar["images"] != sidecar["images"] for member in members
    ):
        return None
    columns = {name: number for number, name in enumerate(sidecar["columns"])}
    record, rows = members[0].target.path.parent / sidecar["images"], sidecar["shape"][0]
    matrices = {
        member.target.path.name: mapped_rows(member.target.path, tuple(own["shape"]), member.target.dtype)
        for member in members
        if (own := member.sidecar) is not None
    }
    if not matrices.keys() <= columns.keys():
        return None
    settings, by = settings_by_row(sidecar["settings"], rows)
    records = np.array(np.memmap(record, dtype=record_type(len(columns), IMAGE), mode="r"))
    records["by"] = by
    row_of = rows_of(sidecar["ids"], images.ids)
    if members[0].changed is not None:
        row_of[members[0].changed] = -1
    unreadable = {entry["row"]: entry["reason"] for entry in sidecar["unreadable"]}
    leftovers = [record.name] if matrices.keys() == columns.keys() else []
    return EarlierDumps(row_of, records, columns, matrices, unreadable, settings, leftovers)


def refuse_lost_rows(source: object, folder: Path, targets: Sequence[Target], images: ImageSet) -> None:
    """ConfigurationError, with the count, if a finished dump holds rows of images that are not in `source` now."""
    lost: list[str] = []
    dumps = 0
    for target in targets:
        try:
            ids = read_sidecar(target.path)["ids"]
        except Top7Error:  # not there, or damaged: its rows are computed again
            continue
        if ids != list(images.ids) and (gone := sorted(set(ids) - set(images.ids))):
            dumps, lost = dumps + 1, max(lost, gone, key=len)
    if lost:
        raise ConfigurationError(
            f"{source}: {len(lost)} images (such as {lost[0]!r}) are gone, of which {dumps} finished dumps in {folder} "
            "have rows: is all of the folder mounted? ./run.sh extract --drop-gone drops these rows"
        )
