"""Disks that fail as real ones do: one that forgets what was not synced when the power goes, one without room."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.dumps.disk import Disk


class PowerLoss(Exception):
    pass


class ForgetfulDisk(Disk):
    """Real files; at `blackout` writes since the last sync are lost, kept or torn, and so are names since the
    folder's.

    The power goes at operation number `dies_at`. lying: sync does nothing.
    """

    def __init__(self, folder: Path, dies_at: int, seed: int, lying: bool = False) -> None:
        super().__init__()
        self.folder, self.dies_at, self.random, self.lying = folder, dies_at, random.Random(seed), lying
        self.operations = 0
        self.names = {
            path: path.read_bytes() for path in folder.iterdir()
        }  # durable names and their files' bytes
        self.identity = {path: path for path in self.names}  # which durable file a present name shows
        self.safe = dict(self.names)  # durable bytes by file
        self.pending: list[tuple] = []  # changes of names since the folder's last sync

    def _tick(self) -> None:
        self.operations += 1
        if self.operations > self.dies_at:
            raise PowerLoss

    def _file(self, path: Path) -> object:
        return self.identity.get(path, path)

    def allocate(self, path, size_bytes, head):
        self._tick()
        super().allocate(path, size_bytes, head)
        file = object()
        self.identity[path] = file
        self.safe[file] = path.read_bytes()
        self.pending.append(("name", path, file))

    def write_at(self, path, offset, data):
        self._tick()
        super().write_at(path, offset, data)

    def add_lines(self, path, data):
        self._tick()
        if path not in self.identity:
            file = object()
            self.identity[path] = file
            self.pending.append(("name", path, file))
        super().add_lines(path, data)
        self.safe[self._file(path)] = path.read_bytes()

    def truncate(self, path, size_bytes):
        self._tick()
        super().truncate(path, size_bytes)
        self.safe[self._file(path)] = path.read_bytes()

    def sync(self, path):
        self._tick()
        super().sync(path)
        if not self.lying:
            self.safe[self._file(path)] = path.read_bytes()

    def write_file(self, path, data):
        self._tick()
        super().write_file(path, data)
        file = object()
        self.identity[path], self.safe[file] = file, data
        self.pending.append(("name", path, file))
        self._settle()

    def replace(self, source, target):
        self._tick()
        super().replace(source, target)
        file = self.identity.pop(source)
        self.identity[target] = file
        self.pending.append(("move", source, target, file))

    def remove(self, path):
        self._tick()
        super().remove(path)
        if self.identity.pop(path, None) is not None:
            self.pending.append(("gone", path))

    def sync_folder(self, folder):
        self._tick()
        super().sync_folder(folder)
        self._settle()

    def _settle(self) -> None:
        for change in self.pending:
            self._apply(change)
        self.pending = []

    def _apply(self, change: tuple) -> None:
        match change:
            case ("name", path, file):
                self.names[path] = file
            case ("move", source, target, file):
                self.names.pop(source, None)
                self.names[target] = file
            case ("gone", path):
                self.names.pop(path, None)

    def blackout(self) -> None:
        """Leave in the folder what a power cut might."""
        present = {self._file(path): path.read_bytes() for path in self.folder.iterdir()}
        for change in self.pending:
            if self.random.random() < 0.5:
                self._apply(change)
        survivors = {}
        for path, file in self.names.items():
            file = path if isinstance(file, bytes) else file
            survivors[path] = self._torn(self.safe.get(file, b""), present.get(file))
        self.close()
        for path in self.folder.iterdir():
            path.unlink()
        for path, data in survivors.items():
            path.write_bytes(data)

    def _torn(self, safe: bytes, present: bytes | None) -> bytes:
        """Each 16 bytes that were not synced are on the disk or not."""
        if present is None or len(present) != len(safe):
            return safe
        blocks = [present if self.random.random() < 0.4 else safe for _ in range(0, len(safe), 16)]
        return b"".join(block[at : at + 16] for block, at in zip(blocks, range(0, len(safe), 16)))


class Room:
    """Counts what asks the system for room on a disk; from operation number `fills_at` on there is none.

    fills_at None: there is always room. Patches `os` through pytest's `patch` (a MonkeyPatch).
    """

    NAMES = ("posix_fallocate", "pwrite", "fsync", "fdatasync")

    def __init__(self, patch: Any, fills_at: int | None) -> None:
        self.fills_at, self.operations = fills_at, 0
        for name in self.NAMES:
            patch.setattr(os, name, self._limited(getattr(os, name)))

    def _limited(self, call: Callable) -> Callable:
        def limited(descriptor: int, *more: object) -> object:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):  # folders take no room
                self.operations += 1
                if self.fills_at is not None and self.operations > self.fills_at:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(descriptor, *more)

        return limited
