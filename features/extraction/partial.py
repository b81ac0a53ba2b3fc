"""Dumps in the making: rows written in windows, a journal of the finished ones, and the step to final names.

One `Group` is the dumps that were started together. Beside their partial files lie a record of the images
(`.rows`: identity, and each dump's norm and checksum) and a journal: a header, then a JSON line for each
finished window, appended only after the window's data is flushed. So what the journal says is on the disk.
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
from features.dumps import beside, npy_header, row_sums, sidecar_for
from features.extraction.disk import Disk
from features.extraction.targets import Target

IDENTITY = [("size_bytes", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,))]


class Group:
    """Targets that share a journal. `done`: (windows,) bool; `unreadable`: {row: reason}."""

    def __init__(
        self,
        targets: Sequence[Target],
        widths: Sequence[int],
        ids: Sequence[str],
        window_rows: int,
        disk: Disk,
    ) -> None:
        self.targets, self.widths, self.ids = list(targets), list(widths), ids
        self.window_rows, self.disk = window_rows, disk
        names = "\n".join(target.path.name for target in targets)
        self.label = hashlib.sha256(names.encode()).hexdigest()[:12]
        self.folder = targets[0].path.parent
        self.journal = self.folder / f".{self.label}.journal"
        self.records = self.folder / f".{self.label}.rows.partial"
        self.images_path = self.folder / f"{self.label}.images.npy"
        self.record_type = np.dtype(
            IDENTITY + [("norms", "<f4", (len(targets),)), ("sums", "<u4", (len(targets),))]
        )
        self.heads = [npy_header((len(ids), width), "float32") for width in widths]
        self.done = np.zeros(-(-len(ids) // window_rows), dtype=bool)
        self.unreadable: dict[int, str] = {}
        self.settings: list[dict] = []
        self.settings_of = np.zeros(len(self.done), dtype=np.uint8)
        self._waiting: list[dict] = []

    def partial(self, target: Target) -> Path:
        return target.path.with_name(f".{target.path.name}.{self.label}.partial")

    def window(self, number: int) -> range:
        return range(number * self.window_rows, min(len(self.ids), (number + 1) * self.window_rows))

    @property
    def bytes_needed(self) -> int:
        rows = len(self.ids) * (4 * sum(self.widths) + self.record_type.itemsize)
        return rows + len(self.targets) * (8 * len(self.ids) + sum(len(i) + 4 for i in self.ids[:1000]))

    def _header(self) -> dict:
        return {
            "format": 1,
            "targets": [target.path.name for target in self.targets],
            "widths": self.widths,
            "rows": len(self.ids),
            "ids": ids_digest(self.ids),
            "window_rows": self.window_rows,
        }

    def start(self) -> str:
        """Go on from the journal, or create the files; returns a sentence if earlier work could not be
        used.
        """
        said = ""
        if self.journal.exists():
            header, lines, whole_bytes = self._read_journal()
            if header == self._header() and self._files_there(lines):
                self.disk.truncate(self.journal, whole_bytes)
                self._replay(lines)
                return ""
            said = f"{self.journal}: unfinished work on other images: begun anew" if header else ""
            self.disk.remove(self.journal)
        for target, width, head in zip(self.targets, self.widths, self.heads):
            self.disk.allocate(self.partial(target), len(head) + 4 * width * len(self.ids), head)
        self.disk.allocate(self.records, self.record_type.itemsize * len(self.ids), b"")
        self.disk.sync_folder(self.folder)
        self.disk.append(self.journal, _line(self._header()))
        self.disk.sync_folder(self.folder)
        return said

    def peek(self) -> np.ndarray:
        """Which windows an earlier run finished, (windows,) bool, without touching anything."""
        if self.journal.exists():
            header, lines, _ = self._read_journal()
            if header == self._header() and self._files_there(lines):
                done = np.zeros_like(self.done)
                done[[line["window"] for line in lines if "window" in line]] = True
                return done
        return self.done

    def _read_journal(self) -> tuple[dict | None, list[dict], int]:
        """The header, the whole lines after it, and the bytes they take; a cut-off or garbled line ends the
        reading.
        """
        found, whole_bytes = [], 0
        for raw in self.journal.read_bytes().splitlines(keepends=True):
            entry = _parsed(raw)
            if entry is None:
                break
            found.append(entry)
            whole_bytes += len(raw)
        return (found[0], found[1:], whole_bytes) if found else (None, [], 0)

    def _files_there(self, lines: list[dict]) -> bool:
        if any("finishing" in line for line in lines):
            return True
        return self.records.exists() and all(self.partial(target).exists() for target in self.targets)

    def _replay(self, lines: list[dict]) -> None:
        for line in lines:
            if "settings" in line:
                self.settings.append(line["settings"])
            elif "window" in line:
                self.done[line["window"]] = True
                self.settings_of[line["window"]] = line["by"]
                self.unreadable |= {int(row): reason for row, reason in line["unreadable"]}

    def write(
        self, number: int, rows: Sequence[np.ndarray], records: np.ndarray, unreadable: Mapping[int, str]
    ) -> None:
        """Write one window: rows[t] (m, D_t) float32 for each target, records (m,) without checksums."""
        window = self.window(number)
        for t, (target, width, head) in enumerate(zip(self.targets, self.widths, self.heads)):
            matrix = np.ascontiguousarray(rows[t], dtype="<f4")
            records["sums"][:, t] = row_sums(matrix, records["norms"][:, t])
            self.disk.write_at(self.partial(target), len(head) + 4 * width * window.start, matrix)
        self.disk.write_at(self.records, self.record_type.itemsize * window.start, records.tobytes())
        self._waiting.append({"window": number, "unreadable": sorted(unreadable.items())})

    def commit(self, settings: dict) -> None:
        """Flush every window written so far, then say so in the journal."""
        if not self._waiting:
            return
        for path in [*map(self.partial, self.targets), self.records]:
            self.disk.sync(path)
        text = b""
        if settings not in self.settings:
            text += _line({"settings": settings})
            self.settings.append(settings)
        by = self.settings.index(settings)
        lines = [entry | {"by": by} for entry in self._waiting]
        self.disk.append(self.journal, text + b"".join(map(_line, lines)))
        self._replay(lines)
        self._waiting = []

    def finish(self) -> None:
        """Give the complete files their final names, sidecars last; safe to repeat after an interruption."""
        if not self.done.all():
            raise Top7Error(f"{self.journal}: {int((~self.done).sum())} windows are not finished")
        if self.records.exists():
            self._finish_targets()
            self.disk.replace(self.records, self.images_path)
            self.disk.sync_folder(self.folder)
        self.disk.remove(self.journal)
        self.disk.sync_folder(self.folder)

    def _finish_targets(self) -> None:
        self.disk.append(self.journal, _line({"finishing": True}))
        records = np.memmap(self.records, dtype=self.record_type, mode="r", shape=(len(self.ids),))
        unreadable = [
            {"row": row, "id": self.ids[row], "reason": reason} for row, reason in self.unreadable.items()
        ]
        for t, (target, width) in enumerate(zip(self.targets, self.widths)):
            self.disk.remove(beside(target.path, ".json"))
            if self.partial(target).exists():
                self.disk.replace(self.partial(target), target.path)
            for suffix, column in (
                (".norms.npy", records["norms"][:, t]),
                (".sums.npy", records["sums"][:, t]),
            ):
                column = np.ascontiguousarray(column)
                self.disk.write_file(
                    beside(target.path, suffix), npy_header(column.shape, column.dtype) + column.tobytes()
                )
            sidecar = sidecar_for(
                shape=(len(self.ids), width),
                dtype="float32",
                ids=self.ids,
                recipe=target.recipe,
                unreadable=unreadable,
                settings=self._settings_runs(),
                window_rows=self.window_rows,
                images=self.images_path.name,
                column=t,
                columns=len(self.targets),
            )
            self.disk.write_file(
                beside(target.path, ".json"), json.dumps(sidecar, ensure_ascii=False).encode() + b"\n"
            )

    def _settings_runs(self) -> list[dict]:
        """Which rows were computed how: [{"rows": [first, end], device, threads, precision, …}]."""
        runs: list[dict] = []
        for number, by in enumerate(self.settings_of):
            window = self.window(number)
            if runs and runs[-1]["by"] == by:
                runs[-1]["rows"][1] = window.stop
            else:
                runs.append({"rows": [window.start, window.stop], "by": int(by)})
        return [{"rows": run["rows"], **self.settings[run["by"]]} for run in runs]


def _line(entry: Mapping) -> bytes:
    """A journal line: a checksum, then JSON; one write."""
    text = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def _parsed(raw: bytes) -> dict | None:
    if not raw.endswith(b"\n") or len(raw) < 11:
        return None
    try:
        entry = json.loads(raw[9:])
        return entry if int(raw[:8], 16) == zlib.crc32(raw[9:-1]) and isinstance(entry, dict) else None
    except ValueError:
        return None
