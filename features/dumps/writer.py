"""The one writer of rows: files written in windows, a journal of the finished windows, and the step to the final names.

While files are written they are called `.<name>.<label>.partial` and lie beside `.<label>.journal`: a header, then one
JSON line for each finished window, with a checksum for each file, appended after the window's bytes were flushed. So
what the journal says is on the disk, and a writer with the same header goes on from there. The last line lists the
final names; from then on `complete` gives the files these names, however often it is interrupted.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from competition.errors import Top7Error
from competition.messages import log
from features.dumps.disk import Disk
from features.dumps.journal import journal_line, read_journal

FORMAT = 3
BLOCK_ROWS = 4096
COMMIT_EVERY_S = 5.0
SIDECARS = (".json", ".sum")


def npy_header(shape: Sequence[int], dtype: DTypeLike) -> bytes:
    """Return the bytes before the data of a .npy file of this shape, C order."""
    stream, kind = io.BytesIO(), np.lib.format.dtype_to_descr(np.dtype(dtype))
    about = {"descr": kind, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue()


def label_of(*names: str) -> str:
    """Return the 12 hexadecimal digits that the unfinished files of these names have in theirs."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RowFile:
    """One file in the making. raw: without the header of a .npy file; scratch: of no use once the others are named."""

    shape: tuple[int, ...]
    dtype: np.dtype
    raw: bool = False
    scratch: bool = False

    @property
    def head(self) -> bytes:
        return b"" if self.raw else npy_header(self.shape, self.dtype)

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def size_bytes(self) -> int:
        return len(self.head) + self.row_bytes * self.shape[0]


class RowWriter:
    """Files of `rows` rows each that are written together, `window_rows` at a time, in any order.

    files: by final name, in `folder`; those in `unwanted` are named in the journal of an earlier run and no longer
    written. about: further keys that an unfinished run must share to be continued. `done`: (windows,) bool.
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        files: Mapping[str, RowFile],
        *,
        rows: int,
        window_rows: int = BLOCK_ROWS,
        about: Mapping[str, Any] | None = None,
        unwanted: Iterable[str] = (),
    ) -> None:
        self.folder, self.label, self.files = Path(folder), label, dict(files)
        self.rows, self.window_rows, self.disk = rows, window_rows, Disk()
        self.written = {name: file for name, file in self.files.items() if name not in set(unwanted)}
        self.header = {
            "format": FORMAT,
            "files": {
                name: [list(file.shape), str(file.dtype), len(file.head), file.row_bytes]
                for name, file in self.files.items()
            },
            "window_rows": window_rows,
            **(about or {}),
        }
        self.journal = self.folder / f".{label}.journal"
        self.done = np.zeros(-(-rows // window_rows), dtype=bool)
        self._waiting: list[dict] = []
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(OSError, Top7Error):  # the error that ends the writing is on its way already
                self.commit()
        self.disk.close()

    def partial(self, name: str) -> Path:
        """Return what a file is called until it is finished."""
        return self.folder / f".{name}.{self.label}.partial"

    def window(self, number: int) -> range:
        """Return the rows of window `number`."""
        return range(number * self.window_rows, min(self.rows, (number + 1) * self.window_rows))

    def windows_left(self) -> Iterator[range]:
        """Yield the rows of the windows that are not finished, in order."""
        return map(self.window, np.flatnonzero(~self.done).tolist())

    def start(self) -> None:
        """Go on from the journal, or create the files."""
        finished, whole_bytes = self._unfinished()
        if finished:
            self.disk.truncate(self.journal, whole_bytes)
            for line in filter(self._is_whole, finished):
                self.note(line)
            return
        if self.journal.exists() and len(read_journal(self.journal)[0]) > 1:
            log.warning(
                f"{self.folder}: rows of an unfinished run are damaged, of other settings or of an earlier version: "
                "they are computed again"
            )
        self.discard()
        try:
            for name, file in self.written.items():
                self.disk.allocate(self.partial(name), file.size_bytes, file.head)
            self.disk.add_lines(self.journal, journal_line(self.header))
        except Top7Error:  # no room for all of them
            self.discard()
            raise
        self.disk.sync_folder(self.folder)

    def peek(self) -> np.ndarray:
        """Return which windows an earlier run finished, (windows,) bool, without reading their rows."""
        done = np.zeros_like(self.done)
        done[[line["window"] for line in self._unfinished()[0]]] = True
        return done

    def _unfinished(self) -> tuple[list[dict], int]:
        """Return what the journal says of finished windows, and its whole bytes; nothing where it is of another run."""
        lines, whole_bytes = read_journal(self.journal) if self.journal.exists() else ([], 0)
        if not lines or lines[0] != self.header or not all(map(self._is_there, self.written)):
            return [], 0
        return [line for line in lines if "window" in line], whole_bytes

    def _is_there(self, name: str) -> bool:
        path, file = self.partial(name), self.files[name]
        if not path.exists() or path.stat().st_size != file.size_bytes:
            return False
        with open(path, "rb") as stream:
            return stream.read(len(file.head)) == file.head

    def _is_whole(self, line: Mapping[str, Any]) -> bool:
        """Whether the rows of a finished window are in the files as they were written."""
        rows, sums = self.window(line["window"]), dict(zip(self.files, line["sums"], strict=True))
        return all(zlib.crc32(self.read(name, rows).tobytes()) == sums[name] for name in self.written)

    def read(self, name: str, rows: range) -> np.ndarray:
        """Return rows that were written, whether they are committed or not."""
        file = self.files[name]
        offset = len(file.head) + file.row_bytes * rows.start
        data = self.disk.read_at(self.partial(name), offset, file.row_bytes * len(rows))
        return np.frombuffer(data, file.dtype).reshape(len(rows), *file.shape[1:])

    def mapped(self, name: str) -> np.ndarray:
        """Return all that was written of a file as a read-only memory map."""
        file = self.files[name]
        return np.memmap(self.partial(name), file.dtype, "r", len(file.head), file.shape)

    def put(self, name: str, place: int, values: np.ndarray) -> int:
        """Write values from item number `place` of the file on; returns their checksum."""
        file = self.files[name]
        data = np.ascontiguousarray(values, file.dtype).reshape(-1).view(np.uint8).data
        self.disk.write_at(self.partial(name), len(file.head) + file.dtype.itemsize * place, data)
        return zlib.crc32(data)

    def write(self, rows: range, blocks: Mapping[str, np.ndarray], **noted: object) -> None:
        """Write one window of every file; `noted` is kept in the journal beside it, once it is committed."""
        sums = {
            name: self.put(name, rows.start * math.prod(self.files[name].shape[1:]), values)
            for name, values in blocks.items()
        }
        number = rows.start // self.window_rows
        self._waiting.append({"window": number, "sums": [sums.get(name) for name in self.files], **noted})

    def note(self, line: dict) -> None:
        """Take over what the journal says of a finished window."""
        self.done[line["window"]] = True

    def commit(self, every_s: float = 0.0) -> None:
        """Flush the windows written so far, then note them in the journal; not before `every_s` since the last time."""
        if not self._waiting or time.monotonic() - self._committed < every_s:
            return
        for name in self.written:
            self.disk.sync(self.partial(name))
        self.disk.add_lines(self.journal, b"".join(map(journal_line, self._waiting)))
        for line in self._waiting:
            self.note(line)
        self._waiting, self._committed = [], time.monotonic()

    def finish(self, sidecars: Iterable[tuple[str, bytes]], gone: Iterable[str] = ()) -> None:
        """Give the complete files their names, and the further small files of `sidecars` with them.

        Those that say what the others hold (.json, .sum) come last; files of these names stay until then. gone: files
        removed then.
        """
        self.commit()
        for name in self.written:
            self.disk.sync(self.partial(name))
        names = [name for name, file in self.written.items() if not file.scratch]
        for name, data in sidecars:
            self.disk.write_file(self.partial(name), data)
            names.append(name)
        useless = [self.partial(name).name for name in self.files if name not in names]
        line = {"finish": names, "gone": [*gone, *useless]}
        self.disk.add_lines(self.journal, journal_line(line))
        complete(self.journal, self.disk)

    def discard(self) -> None:
        """Remove what was written."""
        self.disk.remove(self.journal)
        for name in self.files:
            self.disk.remove(self.partial(name))


def complete(journal: Path, disk: Disk | None = None) -> None:
    """Give files that a journal says are finished their names, after an interruption, too."""
    lines, _ = read_journal(journal) if journal.exists() else ([], 0)
    if not lines or "finish" not in lines[-1]:
        return
    disk, folder, label = disk or Disk(), journal.parent, journal.name.split(".")[1]
    left = {
        name: partial
        for name in (Path(name).name for name in lines[-1]["finish"])
        if (partial := folder / f".{name}.{label}.partial").exists()
    }
    sidecars = [name for name in left if name.endswith(SIDECARS)]
    for name in sidecars:  # no sidecar of older rows may be beside new ones
        disk.remove(folder / name)
    for group in ([name for name in left if name not in sidecars], sidecars):
        disk.sync_folder(folder)
        for name in group:
            disk.replace(left[name], folder / name)
    disk.sync_folder(folder)
    for useless in lines[-1]["gone"]:
        disk.remove(folder / Path(useless).name)
    disk.sync_folder(folder)
    disk.remove(journal)
    disk.sync_folder(folder)
