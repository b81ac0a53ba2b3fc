"""Files that are either complete under their name or not there at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from competition.messages import log

WRITING = ".writing"
ABANDONED_S = 3600.0  # a small file is written in much less
BLOCK_BYTES = 1 << 22  # where room is reserved by writing
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk, or none left to this user


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` to `path` through a synced temporary file beside it and a rename; returns `path`.

    A process that is killed meanwhile leaves the temporary file there; `clean` and `extract` remove it (`abandoned`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=WRITING)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(error.errno, f"{error.strerror}, {len(data)} bytes to write", str(path)) from None
        raise
    sync_folder(path.parent)
    return path


def abandoned(folder: Path) -> list[Path]:
    """Return the temporary files in `folder` that a killed process left: those that nobody wrote to for ABANDONED_S."""
    found = []
    for path in Path(folder).glob(f".*{WRITING}"):
        with suppress(FileNotFoundError):  # it has got its name
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                found.append(path)
    return found


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` that killed processes left there."""
    for path in abandoned(folder):
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8, newlines untouched; see `write_bytes`."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> Path:
    """Write `value` as indented JSON with sorted keys; see `write_bytes`."""
    return write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def reserve(descriptor: int, size_bytes: int) -> None:
    """Give a file `size_bytes`, really taken on the disk; OSError (ENOSPC) where there is no room."""
    try:
        os.posix_fallocate(descriptor, 0, max(1, size_bytes))
        return
    except AttributeError:  # not on this system
        pass
    except OSError as error:  # not on this file system
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    for start in range(0, max(1, size_bytes), BLOCK_BYTES):
        wanted = min(BLOCK_BYTES, max(1, size_bytes) - start)
        block = os.pread(descriptor, wanted, start).ljust(wanted, b"\0")  # what is there stays as it is
        if os.pwrite(descriptor, block, start) < wanted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_data(descriptor: int) -> None:
    """Flush a file's bytes, and its times only where the system knows no less."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the folder's own entries, so that a rename survives a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def unless_read_only(consequence: str) -> Iterator[None]:
    """Where the block cannot write because the folder is read-only, say so and its consequence, and go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning(f"top7: {error.strerror}: {consequence}")
