"""The contents seen so far: which row has which content hash, so that no image is run a second time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from features.extraction.batching import Window
from features.extraction.dump_group import DumpGroup
from features.extraction.tasks import Task

Content = tuple[int, bytes, int]
"""Size in bytes, content hash, row."""


RECORD_BYTES = 32 + 8
MOST_BYTES = 64 * 256 * RECORD_BYTES  # what travels with one window, at the most


class Contents:
    """Rows by size and content hash, 40 bytes each; the first row said to have a content keeps it."""

    def __init__(self) -> None:
        self._records: dict[int, bytearray] = {}

    def add(self, size_bytes: int, sha256: bytes, row: int) -> None:
        self._records.setdefault(size_bytes, bytearray()).extend(sha256 + row.to_bytes(8, "little"))

    def of_size(self, paths: Sequence[str]) -> dict[bytes, int]:
        """Content hash -> row of everything as large as one of these files, which are not read for it.

        Rare sizes first, and no more than `MOST_BYTES`: where a great many files have one size, twins among
        them may be run again.
        """
        there = [self._records.get(size_bytes) for size_bytes in {_size_bytes(path) for path in paths}]
        found: dict[bytes, int] = {}
        for records in sorted((bytes(known) for known in there if known), key=len):
            if len(found) * RECORD_BYTES + len(records) > MOST_BYTES:
                break
            for at in range(0, len(records), RECORD_BYTES):
                end = at + RECORD_BYTES
                row = int.from_bytes(records[at + 32 : end], "little")
                found.setdefault(records[at : at + 32], row)
        return found


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def done_contents(groups: Sequence[DumpGroup]) -> Iterator[Content]:
    """The readable images of the windows that every group has finished."""
    for number in range(len(groups[0].done)):
        if all(group.done[number] for group in groups):
            yield from groups[0].known_contents(number)


def task_contents(task: Task, window: Window) -> Iterator[Content]:
    """The images that a finished task computed, and those that all its groups took over."""
    for place in window.computed:
        size_bytes, _, sha256 = window.pictures[place]
        yield size_bytes, sha256, task.rows.start + place
    yield from taken_contents(task)


def taken_contents(task: Task) -> Iterator[Content]:
    """The images that all groups of a task take over."""
    needed, earlier = set(task.needed), task.groups[0].earlier
    if earlier is None or len(needed) == len(task.rows):
        return
    for row in task.rows:
        old = int(earlier.row_of[row])
        if row not in needed and old not in earlier.unreadable:
            entry = earlier.records[old]
            yield int(entry["size_bytes"]), entry["sha256"].tobytes(), row
