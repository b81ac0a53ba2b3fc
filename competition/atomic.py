"""Files that are either complete under their name or not there at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from competition.messages import log

try:
    import fcntl
except ImportError:  # a system without these locks: what is left there is not removed
    fcntl = None  # type: ignore[assignment]

WRITING = ".writing"
SCRATCH, OWNER = "top7-", ".owner"  # temporary folders, and the file in each that a living owner holds locked
BLOCK_BYTES = 1 << 22  # where room is reserved by writing
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk, or none left to this user


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` to `path` through a synced temporary file beside it and a rename; returns `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    handle, temporary = _locked(path)
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


def _locked(path: Path) -> tuple[int, str]:
    """A new temporary file beside `path`, held by a lock that the system drops when the process dies."""
    while True:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=WRITING)
        with suppress(OSError):  # a file system without locks: what is left there is not removed
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)  # taken for an abandoned one before it was locked


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` that processes left there when they were killed."""
    for path in abandoned(folder):
        with suppress(OSError):
            path.unlink()


def abandoned(folder: Path) -> Iterator[Path]:
    """The temporary files in `folder` that no living process writes, each locked while it is looked at."""
    if fcntl is None:
        return
    for path in Path(folder).glob(f".*{WRITING}"):
        try:
            with open(path, "rb+") as stream:  # network file systems lock nothing that is only read
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
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


@contextmanager
def unless_read_only(consequence: str) -> Iterator[None]:
    """Where the block cannot write because the folder is read-only, say so and its consequence, and go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning(f"top7: {error.strerror}: {consequence}")


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path`, to be written and given that name; removed at the end, or by the next writer there."""
    remove_abandoned(path.parent)
    handle, name = _locked(path)
    try:
        os.chmod(name, 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder among the system's temporary ones, removed at the end; those of killed processes are removed first."""
    for owner in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{OWNER}") if fcntl is not None else ():
        with (
            suppress(OSError),
            open(owner, "rb+") as stream,
        ):  # OSError: its owner lives, or it is another user's
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as folder,
        open(Path(folder, f"{OWNER}-to-be"), "wb") as stream,
    ):
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_SH)
        os.replace(stream.name, Path(folder, OWNER))  # seen by others only once it is locked
        yield Path(folder)
