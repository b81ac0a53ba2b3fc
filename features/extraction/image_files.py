"""Image files as bytes: which are opened at all, when they changed, and the content hash that tells them apart."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path

from competition.images import Region

MAX_FILE_BYTES = 256 << 20


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
