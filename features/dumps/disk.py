"""The few operations by which extraction touches the disk, in one place, so that a test can pull the plug."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from competition.atomic import FULL, reserve, sync_data, sync_folder, write_bytes
from competition.errors import Top7Error


class DiskFull(Top7Error):
    """No space is left; what was committed is kept, and the same command goes on from there."""


@contextmanager
def _writing(path: Path, size_bytes: int = 0) -> Iterator[None]:
    """Where the disk has no room for what is written inside, that is a DiskFull; size_bytes: what is needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed = f" ({size_bytes / 1e9:.2f} GB are needed for it)" if size_bytes else ""
        raise DiskFull(
            f"{path}: the disk is full: make room there{needed} or choose another folder with --work, then run the "
            "same command again: it goes on from the last finished rows"
        ) from None


class Disk:
    """Real files. Nothing is durable before `sync` (a file's bytes) or `sync_folder` (names)."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def allocate(self, path: Path, size_bytes: int, head: bytes) -> None:
        """Create `path`, in place of what is there, with its whole size reserved and `head` at its start, synced."""
        self.close(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path, size_bytes):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                reserve(descriptor, size_bytes)
                os.pwrite(descriptor, head, 0)
                os.fsync(descriptor)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def write_at(self, path: Path, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        with _writing(path):
            while len(view):
                written = os.pwrite(self._descriptor(path), view, offset)
                view, offset = view[written:], offset + written

    def read_at(self, path: Path, offset: int, size_bytes: int) -> bytes:
        return os.pread(self._descriptor(path), size_bytes, offset)

    def add_lines(self, path: Path, data: bytes) -> None:
        """Append to `path` (created if absent) and sync it; a full disk leaves what was there before."""
        view = memoryview(data)
        with _writing(path), open(path, "ab", buffering=0) as stream:
            before = stream.tell()
            try:
                while len(view):  # a nearly full disk takes a part first
                    view = view[stream.write(view) :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(before)  # what came after half a line would not be read
                raise

    def truncate(self, path: Path, size_bytes: int) -> None:
        with open(path, "rb+") as stream:
            stream.truncate(size_bytes)
            os.fsync(stream.fileno())

    def sync(self, path: Path) -> None:
        with _writing(path):
            sync_data(self._descriptor(path))

    def write_file(self, path: Path, data: bytes) -> None:
        """A whole small file, durable and in place, or not there at all."""
        with _writing(path):
            write_bytes(path, data)

    def replace(self, source: Path, target: Path) -> None:
        self.close(source)
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        self.close(path)
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        sync_folder(folder)

    def close(self, path: Path | None = None) -> None:
        """Close one file, or all."""
        for opened in [path] if path is not None else list(self._open):
            if (descriptor := self._open.pop(opened, None)) is not None:
                os.close(descriptor)

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDWR)
        return self._open[path]
