"""Dumps in the making: rows written in windows, a journal of the finished ones, and the step to final names.

One `Group` is the dumps that were started together. Beside their partial files lie a record of the images
(`.rows.partial`: identity, settings, and each dump's norm and checksum) and a journal: a header, then a JSON
line for each finished window, appended only after the window's data is flushed. So what the journal says is
on the disk.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.errors import Top7Error
from competition.images import ids_digest
from features.dumps import DAMAGE, beside, column_sum, npy_header, row_sums, sidecar_for
from features.dumps.disk import Disk
from features.dumps.journal import journal_line, read_journal
from features.dumps.layout import Target
from features.dumps.seals import sealed_text
from features.extraction.batching import Window
from features.extraction.sources import Source

IDENTITY = [("size_bytes", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,)), ("by", "u1")]


def record_type(columns: int) -> np.dtype:
    """One image's record: its file, the settings (`by`) it was computed with, each dump's norm and
    checksum.
    """
    return np.dtype(IDENTITY + [("norms", "<f4", (columns,)), ("sums", "<u4", (columns,))])


class Group:
    """Targets that share a journal; None stands for one that is no longer wanted.

    `done`: (windows,) bool; `unreadable`: {row: reason}; `source`: where rows may be taken over from.
    """

    def __init__(
        self,
        targets: Sequence[Target | None],
        names: Sequence[str],
        widths: Sequence[int],
        ids: Sequence[str],
        window_rows: int,
        disk: Disk,
        source: Source | None = None,
    ) -> None:
        self.targets, self.names, self.widths = list(targets), list(names), list(widths)
        self.ids, self.window_rows, self.disk, self.source = ids, window_rows, disk, source
        self.ids_digest = ids_digest(ids)
        self.label = hashlib.sha256("\n".join([*names, self.ids_digest]).encode()).hexdigest()[:12]
        self.folder = next(target.path.parent for target in targets if target is not None)
        self.journal = self.folder / f".{self.label}.journal"
        self.records = self.folder / f".{self.label}.rows.partial"
        self.ids_path = self.folder / f".{self.label}.ids"
        self.images_path = self.folder / f"{self.label}.images.npy"
        self.record_type = record_type(len(names))
        self.done = np.zeros(-(-len(ids) // window_rows), dtype=bool)
        self.unreadable: dict[int, str] = {}
        self.settings: list[dict] = list(source.settings) if source else []
        self._journalled_settings = 0
        self._waiting: list[dict] = []
        self._leftovers: list[str] = []

    @property
    def wanted(self) -> list[tuple[int, Target]]:
        """(column, target) of the targets that are still wanted."""
        return [(column, target) for column, target in enumerate(self.targets) if target is not None]

    def partial(self, column: int) -> Path:
        return self.folder / f".{self.names[column]}.{self.label}.partial"

    def head(self, column: int) -> bytes:
        target = self.targets[column]
        return npy_header((len(self.ids), self.widths[column]), target.dtype)

    def window(self, number: int) -> range:
        return range(number * self.window_rows, min(len(self.ids), (number + 1) * self.window_rows))

    @property
    def bytes_needed(self) -> int:
        row_bytes = sum(target.item_bytes * self.widths[column] for column, target in self.wanted)
        sidecars = len(self.wanted) * (8 * len(self.ids) + sum(len(i) + 4 for i in self.ids))
        return len(self.ids) * (row_bytes + self.record_type.itemsize) + sidecars

    def bytes_there(self) -> int:
        return sum(
            self.partial(column).stat().st_size for column, _ in self.wanted if self.partial(column).exists()
        )

    def header(self) -> dict:
        return {
            "format": 2,
            "targets": self.names,
            "widths": self.widths,
            "rows": len(self.ids),
            "ids": self.ids_digest,
            "window_rows": self.window_rows,
        }

    def start(self) -> None:
        """Go on from the journal, or create the files."""
        if self.journal.exists():
            lines, whole_bytes = read_journal(self.journal)
            if lines and lines[0] == self.header() and self._files_there(lines):
                self.disk.truncate(self.journal, whole_bytes)
                self._replay(lines[1:])
                if self.records.exists():
                    self._leave_out_damaged(lines)
                return
            self.disk.remove(self.journal)
            self.disk.sync_folder(self.folder)
        for column, _ in self.wanted:
            self.disk.allocate(self.partial(column), self._size_bytes(column), self.head(column))
        self.disk.allocate(self.records, self.record_type.itemsize * len(self.ids), b"")
        self.disk.write_file(self.ids_path, json.dumps(list(self.ids), ensure_ascii=False).encode())
        self.disk.append(self.journal, journal_line(self.header()))
        self.disk.sync_folder(self.folder)

    def peek(self) -> np.ndarray:
        """Which windows an earlier run finished, (windows,) bool, without touching anything."""
        done = np.zeros_like(self.done)
        if self.journal.exists():
            lines, _ = read_journal(self.journal)
            if lines and lines[0] == self.header() and self._files_there(lines):
                done[[line["window"] for line in lines if "window" in line]] = True
        return done

    def _files_there(self, lines: list[dict]) -> bool:
        if not self.records.exists():
            return any("finishing" in line for line in lines)
        return all(self.partial(column).exists() for column, _ in self.wanted)

    def _replay(self, lines: list[dict]) -> None:
        for line in lines:
            if "settings" in line:
                self.settings = line["settings"]
                self._journalled_settings = len(self.settings)
            elif "window" in line:
                self.done[line["window"]] = True
                self.unreadable |= {int(row): reason for row, reason in line["unreadable"]}
            elif "finishing" in line:
                self._leftovers = line["finishing"]

    def _leave_out_damaged(self, lines: list[dict]) -> None:
        """Windows that are not on the disk as they were written are not done: they are computed again."""
        for column, _ in self.wanted:
            path, head = self.partial(column), self.head(column)
            if (
                path.stat().st_size != self._size_bytes(column)
                or self.disk.read_at(path, 0, len(head)) != head
            ):
                self.disk.truncate(path, self._size_bytes(column))
                self.disk.write_at(path, 0, head)
        checksums = {line["window"]: line.get("records") for line in lines if "window" in line}
        for number in np.flatnonzero(self.done):
            if not self._is_whole(int(number), checksums[number]):
                self.done[number] = False
                self.unreadable = {
                    r: why for r, why in self.unreadable.items() if r not in self.window(number)
                }

    def _is_whole(self, number: int, checksum: int | None) -> bool:
        rows = self.window(number)
        size_bytes = self.record_type.itemsize
        data = self.disk.read_at(self.records, rows.start * size_bytes, len(rows) * size_bytes)
        if zlib.crc32(data) != checksum:
            return False
        records = np.frombuffer(data, dtype=self.record_type)
        for column, target in self.wanted:
            row_bytes = target.item_bytes * self.widths[column]
            offset = len(self.head(column)) + row_bytes * rows.start
            data = self.disk.read_at(self.partial(column), offset, row_bytes * len(rows))
            matrix = np.frombuffer(data, dtype=target.dtype).reshape(len(rows), -1)
            if (row_sums(matrix, records["norms"][:, column]) != records["sums"][:, column]).any():
                return False
        return True

    def _size_bytes(self, column: int) -> int:
        row_bytes = self.targets[column].item_bytes * self.widths[column]
        return len(self.head(column)) + row_bytes * len(self.ids)

    def settings_number(self, settings: dict) -> int:
        """The number that stands for `settings` in the records of this group."""
        if settings not in self.settings:
            self.settings.append(settings)
        return self.settings.index(settings)

    def write(self, number: int, window: Window, columns: Mapping[str, int], settings: dict) -> None:
        """Write one window. columns: dump name -> its column in `window`; rows that `window` did not compute
        come from the source, copies of earlier rows from what is written already.
        """
        rows = self.window(number)
        records = np.zeros(len(rows), dtype=self.record_type)
        records["by"] = self.settings_number(settings)
        window.identify(records)
        unreadable = dict(window.unreadable)
        taken = self.source.take(rows) if self.source else None
        if taken is not None:
            taken.into_records(records)
            unreadable |= taken.unreadable
        originals = {place: self._record(row) for place, row in window.copies.items()}
        for column, target in self.wanted:
            matrix = np.zeros((len(rows), self.widths[column]), dtype=target.dtype)
            if self.names[column] in columns:
                at = columns[self.names[column]]
                matrix[:] = window.descriptors[at]
                records["norms"][window.computed, column] = window.norms[window.computed, at]
            if taken is not None:
                matrix[taken.places] = taken.rows(self.names[column])
                records["norms"][taken.places, column] = taken.norms(self.names[column])
            for place, original in originals.items():
                matrix[place] = self._row(column, window.copies[place])
                records["norms"][place, column] = original["norms"][column]
            records["sums"][:, column] = row_sums(matrix, records["norms"][:, column])
            offset = len(self.head(column)) + matrix.dtype.itemsize * self.widths[column] * rows.start
            self.disk.write_at(self.partial(column), offset, matrix)
        for place, original in originals.items():
            records["by"][place] = original["by"]
        data = records.tobytes()
        self.disk.write_at(self.records, self.record_type.itemsize * rows.start, data)
        noted = {"window": number, "unreadable": sorted(unreadable.items()), "records": zlib.crc32(data)}
        self._waiting.append(noted)

    def _row(self, column: int, row: int) -> np.ndarray:
        dtype = np.dtype(self.targets[column].dtype)
        size_bytes = dtype.itemsize * self.widths[column]
        data = self.disk.read_at(self.partial(column), len(self.head(column)) + row * size_bytes, size_bytes)
        return np.frombuffer(data, dtype=dtype)

    def _record(self, row: int) -> np.ndarray:
        size_bytes = self.record_type.itemsize
        data = self.disk.read_at(self.records, row * size_bytes, size_bytes)
        return np.frombuffer(data, dtype=self.record_type)[0]

    def known_contents(self, number: int) -> list[tuple[int, bytes, int]]:
        """(size in bytes, content hash, row) of the readable images of a finished window."""
        rows = self.window(number)
        size_bytes = self.record_type.itemsize
        data = self.disk.read_at(self.records, rows.start * size_bytes, len(rows) * size_bytes)
        return [
            (int(entry["size_bytes"]), entry["sha256"].tobytes(), row)
            for row, entry in zip(rows, np.frombuffer(data, dtype=self.record_type))
            if row not in self.unreadable
        ]

    def commit(self) -> None:
        """Flush every window written so far, then say so in the journal."""
        if not self._waiting:
            return
        for path in [*(self.partial(column) for column, _ in self.wanted), self.records]:
            self.disk.sync(path)
        lines = list(self._waiting)
        if len(self.settings) > self._journalled_settings:
            lines.insert(0, {"settings": self.settings})
        self.disk.append(self.journal, b"".join(map(journal_line, lines)))
        self._replay(lines)
        self._waiting = []

    def finish(self) -> None:
        """Give the complete files their final names, sidecars last; safe to repeat after an interruption."""
        if not self.done.all():
            raise Top7Error(f"{self.journal}: {int((~self.done).sum())} windows are not finished")
        leftovers = [path.name for path in self.source.leftovers] if self.source else self._leftovers
        if self.records.exists():
            self.disk.append(self.journal, journal_line({"finishing": leftovers}))
            self.disk.replace(self.records, self.images_path)
            self.disk.sync_folder(self.folder)
        self._finish_targets()
        for path in [self.folder / name for name in leftovers]:
            if path != self.images_path:
                self.disk.remove(path)
        for column in range(len(self.names)):
            self.disk.remove(self.partial(column))
        self.disk.remove(self.ids_path)
        self.disk.sync_folder(self.folder)
        self.disk.remove(self.journal)
        self.disk.sync_folder(self.folder)

    def _finish_targets(self) -> None:
        records = np.memmap(self.images_path, dtype=self.record_type, mode="r", shape=(len(self.ids),))
        unreadable = [
            {"row": row, "id": self.ids[row], "reason": reason}
            for row, reason in sorted(self.unreadable.items())
        ]
        for column, target in self.wanted:
            self.disk.remove(beside(target.path, ".json"))
            self.disk.sync_folder(self.folder)
            if self.partial(column).exists():
                self.disk.replace(self.partial(column), target.path)
            for suffix, name in ((".norms.npy", "norms"), (".sums.npy", "sums")):
                values = np.ascontiguousarray(records[name][:, column])
                data = npy_header(values.shape, values.dtype) + values.tobytes()
                self.disk.write_file(beside(target.path, suffix), data)
            sidecar = sidecar_for(
                shape=(len(self.ids), self.widths[column]),
                dtype=target.dtype,
                ids=self.ids,
                recipe=target.recipe,
                unreadable=unreadable,
                settings=self._settings_runs(records["by"]),
                window_rows=self.window_rows,
                images=self.images_path.name,
                columns=self.names,
                column_sum=column_sum(np.load(target.path, mmap_mode="r", allow_pickle=False)).tolist(),
            )
            self.disk.write_file(beside(target.path, ".json"), sealed_text(sidecar).encode())
            self.disk.remove(beside(target.path, DAMAGE))

    def _settings_runs(self, by: np.ndarray) -> list[dict]:
        """Which rows were computed how: [{"rows": [first, end], device, threads, precision, …}]."""
        cuts = [0, *(np.flatnonzero(np.diff(by)) + 1).tolist(), len(by)]
        return [
            {"rows": [first, end], **self.settings[by[first]]}
            for first, end in zip(cuts, cuts[1:])
            if end > first
        ]
