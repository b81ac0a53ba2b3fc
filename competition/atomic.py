"""Files that are either complete under their name or not there at all."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without these locks: what is left there is not removed
    fcntl = None

WRITING = ".writing"
BLOCK_BYTES = 1 << 22  # where room is reserved by writing


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` to `path` through a synced temporary file beside it and a rename; returns `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=WRITING)
    try:
        with os.fdopen(handle, "wb") as stream:
            with suppress(OSError):  # a file system without locks, too
                if fcntl is not None:
                    fcntl.flock(stream, fcntl.LOCK_SH)  # the system drops it when the process dies
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return path


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` that processes left there when they were killed."""
    if fcntl is None:
        return
    for path in Path(folder).glob(f".*{WRITING}"):
        try:
            with open(path, "rb+") as stream:  # network file systems lock nothing that is only read
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except OSError:  # it has got its name, or is being written, or cannot be locked
            continue


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
