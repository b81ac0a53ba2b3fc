"""Journal lines: a checksum, then JSON; what a crash cut off or garbled is not read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path


def unfinished(folder: Path) -> Iterator[tuple[Path, dict]]:
    """Yield the journals in a folder with their headers; `files` of a header has the names of what is written."""
    for journal in sorted(folder.glob(".*.journal")) if folder.is_dir() else []:
        lines, _ = read_journal(journal)
        if lines and "files" in lines[0]:
            yield journal, lines[0]


def read_journal(path: Path) -> tuple[list[dict], int]:
    """The whole lines of a journal and the bytes they take; a cut-off or garbled line ends the reading."""
    found, whole_bytes = [], 0
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            entry, same = json.loads(raw[9:]), int(raw[:8], 16) == zlib.crc32(raw[9:-1])
        except ValueError:
            break
        if not same or not isinstance(entry, dict):
            break
        found.append(entry)
        whole_bytes += len(raw)
    return found, whole_bytes


def journal_line(entry: Mapping) -> bytes:
    """One entry as it is appended, in one write."""
    text = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"
