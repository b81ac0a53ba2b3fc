"""Image files: opened, told apart by their content, and decoded ahead of the network, in row order."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.images import ImageSet, Region
from features.images.decoding import Budget, decode
from features.images.rgb_pixels import Unreadable
from features.images.sizing import Sizing

MAX_FILE_BYTES = 256 << 20
READING = Budget(MAX_FILE_BYTES)  # of all files that are being decoded at one time


def opened(path: str | Path) -> tuple[io.BufferedReader, os.stat_result]:
    """Open a regular file of at most MAX_FILE_BYTES; OSError, with what it is, for everything else.

    Looked at is what was opened. Pipes and devices are opened without waiting for the other end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    stream = open(path, "rb", opener=lambda name, _: os.open(name, flags))
    try:
        found = os.fstat(stream.fileno())
        if (why := _refused(found)) is not None:
            raise OSError(errno.EINVAL, why)
    except BaseException:
        stream.close()
        raise
    return stream, found


def _refused(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_size > MAX_FILE_BYTES:
        return f"{found.st_size / 2**20:.0f} MB, an image file may have {MAX_FILE_BYTES >> 20} MB"
    return None


def file_stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of change in ns; -1, -1 for a file that `opened` refuses."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return (-1, -1) if _refused(found) else (found.st_size, found.st_mtime_ns)


def content_hash(path: str, view: int | Region | None = None) -> bytes:
    """SHA-256 of a file, or of what `view` makes of it (`view_hash`), 32 bytes; zeros if it cannot be read."""
    try:
        stream, _ = opened(path)
        with stream:
            return view_hash(hashlib.file_digest(stream, "sha256").digest(), view)
    except OSError:
        return bytes(32)


def view_hash(sha256: bytes, view: int | Region | None) -> bytes:
    """The hash of the content of a simulated photo (a seed) or a region: the file's hash and the view's; None: the file's."""
    if view is None:
        return sha256
    text = view.to_bytes(8, "little") if isinstance(view, int) else repr((view.box, view.turns)).encode()
    return hashlib.sha256(sha256 + text).digest()


@dataclass
class Picture:
    """One image file: its identity, and its pixels, uint8 (H, W, 3) for each sizing, or why there are none."""

    row: int
    size_bytes: int
    mtime_ns: int
    sha256: bytes
    pixels: list[np.ndarray] | None
    reason: str | None


def read_picture(
    row: int, path: str | Path, sizings: tuple[Sizing, ...], view: int | Region | None = None
) -> Picture:
    """Read a file once: its hash and its pixels come from the same bytes. view: see `decode`."""
    picture = Picture(row, -1, -1, bytes(32), None, None)
    try:
        stream, stamp = opened(path)
        with stream, READING.room(stamp.st_size):
            data = stream.read(stamp.st_size)  # no more than that: some special files never end
            picture.size_bytes, picture.mtime_ns = stamp.st_size, stamp.st_mtime_ns
            picture.sha256 = view_hash(hashlib.sha256(data).digest(), view)
            picture.pixels = decode(data, sizings, view)
    except OSError as error:
        picture.reason = f"cannot be opened: {error.strerror}"
    except Unreadable as error:
        picture.reason = str(error)
    except MemoryError:
        picture.reason = "does not fit in memory"
    return picture


def read_ahead(
    images: ImageSet, rows: Iterable[int], sizings: tuple[Sizing, ...], *, workers: int, ahead: int
) -> Generator[Picture, None, None]:
    """Yield the pictures of `rows` in that order, at most `ahead` of them decoded before they are asked for."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque = deque()
        try:
            for row in rows:
                waiting.append(pool.submit(read_picture, row, images.paths[row], sizings, images.view(row)))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
