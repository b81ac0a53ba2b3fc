"""Files kept with their checksums: written whole or not at all, and looked at whenever they are opened.

A sealed sidecar (JSON) names its files with their sizes and CRC-32, says what they are, and ends with a checksum of
its own text. It is written last: without it, or where something differs, its files count as not there.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from competition.atomic import write_text

CHECKED_BYTES = 64 << 20  # up to this size every opening reads the checksum; larger files: `verify` alone
BLOCK_BYTES = 16 << 20
_TAIL = ', "checksum": "'


def sealed_text(value: Mapping) -> str:
    """Return `value` as JSON whose last key is a checksum of the text before it."""
    text = json.dumps({key: value[key] for key in value if key != "checksum"}, ensure_ascii=False)
    return f'{text[:-1]}{_TAIL}{zlib.crc32(text.encode()):08x}"}}\n'


def unsealed(data: bytes) -> dict:
    """Return the JSON object of a sealed text, or of one without a checksum; ValueError where it is damaged."""
    head, mark, tail = data.decode("utf-8").rpartition(_TAIL)
    if mark and tail != f'{zlib.crc32((head + "}").encode()):08x}"}}\n':
        raise ValueError("its checksum differs")
    found = json.loads(data)
    if not isinstance(found, dict) or ("checksum" in found) != bool(mark):
        raise ValueError("not a JSON object with its checksum")
    return found


def seal(sidecar: Path, files: Iterable[Path], **about: object) -> None:
    """Write the sidecar of complete `files` in its folder."""
    write_text(sidecar, sealing({path.name: path for path in files}, **about))
    touch(sidecar)


def sealing(files: Mapping[str, Path], **about: object) -> str:
    """Return the text of the sidecar of files by the names they have or will have; they are read for their sums."""
    noted = {name: {"bytes": path.stat().st_size, "crc32": file_sum(path)} for name, path in files.items()}
    return sealed_text({**about, "files": noted})


def read_seal(sidecar: Path) -> dict | None:
    """Return what a sealed sidecar says; None where there is none, or it is damaged or of an earlier version."""
    try:
        found = unsealed(sidecar.read_bytes())
    except (OSError, ValueError):
        return None
    return found if "files" in found and "checksum" in found else None


def intact(sidecar: Path) -> dict | None:
    """Return what the sidecar says if its files are there, with their sizes and, up to CHECKED_BYTES, their sums."""
    found = read_seal(sidecar)
    return found if found is not None and not _differing(sidecar, found) else None


def bad_files(sidecar: Path) -> list[Path]:
    """Return the files of a sidecar that are not as they were written, read in full; itself where it is damaged."""
    found = read_seal(sidecar)
    return [sidecar] if found is None else _differing(sidecar, found, in_full=True)


def remove(sidecar: Path) -> None:
    """Remove a sidecar, then its files. Whoever has mapped a file keeps what is mapped."""
    found = read_seal(sidecar) or {"files": {}}
    for path in [sidecar, *(sidecar.with_name(Path(name).name) for name in found["files"])]:
        path.unlink(missing_ok=True)


def touch(sidecar: Path, used_ns: int | None = None) -> None:
    """Note by the sidecar's time of access that its files are used now, or were at a time in nanoseconds.

    A file system's own time of access is of no help: it is coarse, and reading may or may not change it. A
    read-only folder stays as it is.
    """
    with suppress(OSError):
        os.utime(sidecar, ns=(time.time_ns() if used_ns is None else used_ns, sidecar.stat().st_mtime_ns))


def sum_path(path: Path) -> Path:
    """The sidecar of a file that has one to itself."""
    return path.with_name(path.name + ".sum")


def file_is_whole(path: Path) -> bool:
    """Whether a file with a sidecar to itself is there and undamaged."""
    return intact(sum_path(path)) is not None


def file_sum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes."""
    total = 0
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            total = zlib.crc32(block, total)
    return total


@lru_cache(maxsize=4096)
def _sum_once(path: Path, size_bytes: int, mtime_ns: int) -> int:
    return file_sum(path)


def _differing(sidecar: Path, found: Mapping, *, in_full: bool = False) -> list[Path]:
    bad = []
    for name, noted in found["files"].items():
        path = sidecar.with_name(Path(name).name)
        try:
            there = path.stat()
            same = there.st_size == noted["bytes"]
            if same and in_full:
                same = file_sum(path) == noted["crc32"]
            elif same and there.st_size <= CHECKED_BYTES:
                same = _sum_once(path, there.st_size, there.st_mtime_ns) == noted["crc32"]
        except OSError:
            same = False
        bad += [] if same else [path]
    return bad
