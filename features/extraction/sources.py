"""Rows taken over from an earlier dump: of a gallery that grew, or whose damaged or changed rows are made
anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from features.dumps import row_sums

KEPT_WINDOWS = 8


@dataclass
class Taken:
    """Rows of one window that need not be computed. places: (m,) int64, their places in the window."""

    places: np.ndarray
    found: np.ndarray
    matrices: dict[str, np.ndarray]
    columns: Mapping[str, int]
    unreadable: dict[int, str]

    def rows(self, name: str) -> np.ndarray:
        return self.matrices[name]

    def norms(self, name: str) -> np.ndarray:
        return self.found["norms"][:, self.columns[name]]

    def into_records(self, records: np.ndarray) -> None:
        for name in ("size_bytes", "mtime_ns", "sha256", "by"):
            records[name][self.places] = self.found[name]


@dataclass
class Source:
    """An earlier state of some dumps.

    row_of: (n,) int64, the earlier row of each image of now, -1 for none; matrices: {dump name: (n_old, D)};
    records: (n_old,) as written beside them, `columns` their column by dump name; leftovers: files that are
    of no use once the new dumps stand.
    """

    row_of: np.ndarray
    records: np.ndarray
    columns: Mapping[str, int]
    matrices: Mapping[str, np.ndarray]
    unreadable: Mapping[int, str]
    settings: Sequence[dict]
    leftovers: Sequence[Path] = ()
    _kept: dict[int, Taken] = field(default_factory=dict)
    _keeping: Lock = field(default_factory=Lock)

    def take(self, rows: range) -> Taken:
        """The rows of a window that are there and whole by their checksums.

        Each window is asked for when it is planned and when it is written; the last few are kept in between.
        """
        with self._keeping:
            if (kept := self._kept.pop(rows.start, None)) is not None:
                return kept
        old = self.row_of[rows.start : rows.stop]
        places = np.flatnonzero(old >= 0)
        matrices: dict[str, np.ndarray] = {}
        found = np.asarray(self.records[old[places]])
        whole = np.ones(len(places), dtype=bool)
        for name, matrix in self.matrices.items():
            matrices[name] = np.asarray(matrix[old[places]])
            column = self.columns[name]
            whole &= row_sums(matrices[name], found["norms"][:, column]) == found["sums"][:, column]
        places = places[whole]
        unreadable = {
            int(rows.start + place): self.unreadable[int(old[place])]
            for place in places
            if int(old[place]) in self.unreadable
        }
        matrices = {name: matrix[whole] for name, matrix in matrices.items()}
        taken = Taken(places, found[whole], matrices, self.columns, unreadable)
        with self._keeping:
            self._kept[rows.start] = taken
            while len(self._kept) > KEPT_WINDOWS:
                self._kept.pop(next(iter(self._kept)))
        return taken


def rows_of(old_ids: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """(n,) int64: where each of `ids` stood among `old_ids`, -1 for a new one."""
    row = {image_id: number for number, image_id in enumerate(old_ids)}
    return np.fromiter((row.get(image_id, -1) for image_id in ids), dtype=np.int64, count=len(ids))


def mapped_rows(path: Path, offset: int, rows: int, width: int, dtype: str) -> np.ndarray:
    """(rows, width) memory map of a dump that may be cut off: rows that are not there are zero (their
    checksums then tell).
    """
    size_bytes = path.stat().st_size if path.exists() else 0
    item_bytes = np.dtype(dtype).itemsize * width
    there = max(0, min(rows, (size_bytes - offset) // item_bytes))
    if there == rows:
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(rows, width))
    whole = np.zeros((rows, width), dtype=dtype)
    if there:
        whole[:there] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(there, width))
    return whole
