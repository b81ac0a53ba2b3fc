"""Which dumps are there, which are not, and which earlier rows can be taken over: the groups that a pass
works on.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.atomic import write_json
from competition.images import ImageSet, ids_digest
from competition.messages import log
from features.dumps import DAMAGE, bad_rows, beside, npy_header
from features.dumps.disk import Disk
from features.dumps.journal import read_journal
from features.dumps.layout import Target
from features.extraction.dump_group import Group, record_type
from features.extraction.hashing import content_hash, file_stamp
from features.extraction.rebuilding import rebuild_record, record_is_whole, settings_by_row, sidecar_of
from features.extraction.sources import Source, mapped_rows, rows_of


@dataclass(frozen=True)
class Standing:
    """A target with its sidecar, if any; `complete`: nothing to do; `changed`: (n,) bool rows whose file
    changed.
    """

    target: Target
    sidecar: dict | None
    complete: bool
    changed: np.ndarray | None

    def damaged(self, images: ImageSet) -> bool:
        """Whether the images are those it was made of, and yet it is not complete."""
        if self.complete or self.sidecar is None:
            return False
        return self.sidecar["ids"] == list(images.ids) and not self.changed.any()


def standings(
    targets: Sequence[Target], images: ImageSet, *, check_content: bool = False, say: bool = True
) -> list[Standing]:
    """How each target stands for these images.

    A file counts as changed if its size or time differs from what was recorded and its content hash too;
    check_content: hash every file, whatever its size and time.
    """
    changes: dict[str, np.ndarray] = {}
    found = []
    for target in targets:
        sidecar = sidecar_of(target)
        if sidecar is None:
            found.append(Standing(target, None, False, None))
            continue
        record = sidecar["images"]
        if record not in changes:
            path = target.path.parent / record
            if not record_is_whole(path, sidecar):
                rebuild_record(path, sidecar, images)
            changes[record] = _changed(path, sidecar, images, check_content)
            if say:
                _tell(target.path.parent, sidecar["ids"], images, changes[record])
        rows, width = sidecar["shape"]
        size_bytes = len(npy_header((rows, width), target.dtype)) + rows * width * target.item_bytes
        complete = (
            sidecar["ids"] == list(images.ids)
            and not changes[record].any()
            and not beside(target.path, DAMAGE).exists()
            and all(beside(target.path, suffix).exists() for suffix in (".npy", ".norms.npy", ".sums.npy"))
            and target.path.stat().st_size == size_bytes
        )
        found.append(Standing(target, sidecar, complete, changes[record]))
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
        log.info(f"{folder}: {what} have other content than before: their rows are computed anew")


def _changed(record: Path, sidecar: Mapping, images: ImageSet, check_content: bool) -> np.ndarray:
    """(n,) bool: images that were there before with other content. Times that changed alone are noted
    anew.
    """
    changed = np.zeros(len(images), dtype=bool)
    records = np.array(np.memmap(record, dtype=record_type(len(sidecar["columns"])), mode="r"))
    same = sidecar["ids"] == list(images.ids)
    row_of = np.arange(len(images)) if same else rows_of(sidecar["ids"], images.ids)
    retimed = False
    for row in np.flatnonzero(row_of >= 0):
        entry = records[row_of[row]]
        size_bytes, mtime_ns = file_stamp(images.paths.texts[row])
        if (size_bytes, mtime_ns) == (entry["size_bytes"], entry["mtime_ns"]) and not check_content:
            continue
        if size_bytes < 0:  # a file that cannot be looked at now takes no finished row away
            continue
        if size_bytes == entry["size_bytes"] and (
            digest := content_hash(images.paths.texts[row], images.view(row))
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
    """Finish what an earlier run was giving its final names when it stopped; nothing is computed for that."""
    by_name = {target.path.name: target for target in targets}
    for journal in sorted(folder.glob(".*.journal")) if folder.is_dir() else []:
        lines, _ = read_journal(journal)
        if not any("finishing" in line for line in lines):
            continue
        header, label = lines[0], journal.name.split(".")[1]
        members = [by_name.get(name) for name in header["targets"]]
        ids_path = folder / f".{label}.ids"
        ids = _ids(ids_path, header["ids"]) if ids_path.exists() else None
        if ids is not None and any(members):
            group = Group(members, header["targets"], header["widths"], ids, header["window_rows"], disk)
            group.start()
            if not group.done.all():  # damaged meanwhile: computed again
                continue
            group.finish()
            for _, target in group.wanted:
                if len(bad := bad_rows(target.path)):  # likewise: `extract` mends it
                    write_json(beside(target.path, DAMAGE), {"rows": bad.tolist()})
        elif not ids_path.exists():
            for name in next(line["finishing"] for line in lines if "finishing" in line):
                if name != f"{label}.images.npy":
                    disk.remove(folder / name)
            disk.sync_folder(folder)
            disk.remove(journal)
            disk.sync_folder(folder)
    disk.close()


def _ids(path: Path, digest: str) -> list[str] | None:
    """The ids of an unfinished extraction; None if the file is damaged."""
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        return ids if ids_digest(ids) == digest else None
    except (ValueError, TypeError, AttributeError):
        return None


def groups_for(
    found: Sequence[Standing], widths: Mapping[Path, int], images: ImageSet, window_rows: int, disk: Disk
) -> list[Group]:
    """The groups that make every incomplete target: unfinished ones first, then one for each earlier state.

    widths: D of every target that is not complete, by path.
    """
    waiting = {standing.target.path.name: standing for standing in found if not standing.complete}
    if not waiting:
        return []
    folder = next(iter(waiting.values())).target.path.parent
    digest, groups, earlier = ids_digest(images.ids), [], {}
    by_name = {standing.target.path.name: standing for standing in found}
    for journal in sorted(folder.glob(".*.journal")) if folder.is_dir() else []:
        lines, _ = read_journal(journal)
        names = lines[0]["targets"] if lines else []
        mine = [name for name in names if name in waiting]
        if not mine:
            continue
        if lines[0]["ids"] != digest or lines[0]["window_rows"] != window_rows:
            earlier |= dict.fromkeys(mine, journal)
            continue
        members = [by_name[name] if name in by_name else None for name in names]
        groups.append(_group(members, names, lines[0]["widths"], images, window_rows, disk))
        for name in mine:
            del waiting[name]
    partition: dict[object, list[Standing]] = {}
    for name, standing in waiting.items():
        key = standing.sidecar["images"] if standing.sidecar else earlier.get(name)
        partition.setdefault(key, []).append(standing)
    for key, members in partition.items():
        names = [standing.target.path.name for standing in members]
        sizes = [widths[standing.target.path] for standing in members]
        journal = key if isinstance(key, Path) else None
        groups.append(_group(members, names, sizes, images, window_rows, disk, journal))
    return groups


def _group(
    members: Sequence[Standing | None],
    names: Sequence[str],
    widths: Sequence[int],
    images: ImageSet,
    window_rows: int,
    disk: Disk,
    journal: Path | None = None,
) -> Group:
    standing = [member for member in members if member is not None and not member.complete]
    source = None
    if journal is not None:
        source = _unfinished(journal, names, images)
    elif standing and all(member.sidecar for member in standing):
        source = _finished(standing, widths, names, images)
    targets = [member.target if member is not None else None for member in members]
    return Group(targets, names, widths, images.ids, window_rows, disk, source)


def _finished(
    members: Sequence[Standing], widths: Sequence[int], names: Sequence[str], images: ImageSet
) -> Source | None:
    """The rows of complete but outdated or damaged dumps."""
    folder = members[0].target.path.parent
    sidecar = members[0].sidecar
    if len({member.sidecar["images"] for member in members}) > 1:
        return None
    record = folder / sidecar["images"]
    columns = {name: number for number, name in enumerate(sidecar["columns"])}
    dtype = record_type(len(columns))
    rows = sidecar["shape"][0]
    matrices = {}
    for member in members:
        name = member.target.path.name
        if name not in columns:
            return None
        width = widths[list(names).index(name)]
        offset = len(npy_header((rows, width), member.target.dtype))
        matrices[name] = mapped_rows(member.target.path, offset, rows, width, member.target.dtype)
    settings, by = settings_by_row(sidecar["settings"], rows)
    records = np.array(np.memmap(record, dtype=dtype, mode="r"))
    records["by"] = by
    row_of = rows_of(sidecar["ids"], images.ids)
    if members[0].changed is not None:
        row_of[members[0].changed] = -1
    unreadable = {entry["row"]: entry["reason"] for entry in sidecar["unreadable"]}
    leftovers = [record] if {member.target.path.name for member in members} == set(columns) else []
    return Source(row_of, records, columns, matrices, unreadable, settings, leftovers)


def _unfinished(journal: Path, names: Sequence[str], images: ImageSet) -> Source | None:
    """The rows that an unfinished extraction of other images has done already."""
    lines, _ = read_journal(journal)
    header, label = lines[0], journal.name.split(".")[1]
    folder = journal.parent
    ids_path, records_path = folder / f".{label}.ids", folder / f".{label}.rows.partial"
    if not ids_path.exists() or not records_path.exists():
        return None
    old_ids = _ids(ids_path, header["ids"])
    if old_ids is None:
        return None
    columns = {name: number for number, name in enumerate(header["targets"])}
    dtype = record_type(len(columns))
    if records_path.stat().st_size != dtype.itemsize * len(old_ids):
        return None
    matrices = {}
    for name in names:
        path, width = folder / f".{name}.{label}.partial", header["widths"][columns[name]]
        if not path.exists():
            return None
        offset = len(npy_header((len(old_ids), width), "float32"))
        half = path.stat().st_size < offset + 4 * width * len(old_ids)
        matrices[name] = mapped_rows(path, offset, len(old_ids), width, "float16" if half else "float32")
    records = np.array(np.memmap(records_path, dtype=dtype, mode="r"))
    done = np.zeros(len(old_ids), dtype=bool)
    unreadable: dict[int, str] = {}
    settings: list[dict] = []
    for line in lines[1:]:
        settings = line.get("settings", settings)
        if "window" in line:
            start = line["window"] * header["window_rows"]
            window = records[start : start + header["window_rows"]]
            if zlib.crc32(window.tobytes()) != line.get("records"):
                continue  # damaged: computed again
            done[start : start + header["window_rows"]] = True
            unreadable |= {int(row): reason for row, reason in line["unreadable"]}
    row_of = rows_of(old_ids, images.ids)
    row_of[(row_of >= 0) & ~done[row_of]] = -1
    leftovers = [
        journal,
        records_path,
        ids_path,
        *(folder / f".{name}.{label}.partial" for name in header["targets"]),
    ]
    return Source(row_of, records, columns, matrices, unreadable, settings, leftovers)
