"""Finished dumps whose rows are taken over: of a gallery that grew, or where some rows are damaged or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.dumps import npy_header, row_sums


@dataclass(frozen=True)
class TakenRows:
    """Rows of one window that need not be computed.

    places: (m,) int64, their places in the window; records: (m,) of the images; matrices: {dump name: (m, D)};
    norms: {dump name: (m,)}; unreadable: {row: reason}.
    """

    places: np.ndarray
    records: np.ndarray
    matrices: Mapping[str, np.ndarray]
    norms: Mapping[str, np.ndarray]
    unreadable: Mapping[int, str]


@dataclass(frozen=True)
class EarlierDumps:
    """Dumps of one earlier extraction.

    row_of: (n,) int64, the earlier row of each image of now, -1 for none; matrices: {dump name: (n_old, D)};
    records: (n_old,) as written beside them, `columns` their column by dump name; leftovers: names of files that are
    of no use once the new dumps are complete.
    """

    row_of: np.ndarray
    records: np.ndarray
    columns: Mapping[str, int]
    matrices: Mapping[str, np.ndarray]
    unreadable: Mapping[int, str]
    settings: Sequence[dict]
    leftovers: Sequence[str] = ()

    def take(self, rows: range) -> TakenRows:
        """Return the rows of a window that are there and whole by their checksums in every dump."""
        old = self.row_of[rows.start : rows.stop]
        places = np.flatnonzero(old >= 0)
        records = np.asarray(self.records[old[places]])
        matrices = {name: np.asarray(matrix[old[places]]) for name, matrix in self.matrices.items()}
        whole = np.ones(len(places), dtype=bool)
        for name, matrix in matrices.items():
            column = self.columns[name]
            whole &= row_sums(matrix, records["norms"][:, column]) == records["sums"][:, column]
        places, records = places[whole], records[whole]
        return TakenRows(
            places,
            records,
            {name: matrix[whole] for name, matrix in matrices.items()},
            {name: records["norms"][:, self.columns[name]] for name in matrices},
            {
                rows.start + place: self.unreadable[row]
                for place, row in zip(places.tolist(), old[places].tolist())
                if row in self.unreadable
            },
        )


def rows_of(old_ids: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Return where each of `ids` was among `old_ids`, (n,) int64, -1 for a new one."""
    row = {image_id: number for number, image_id in enumerate(old_ids)}
    return np.fromiter((row.get(image_id, -1) for image_id in ids), dtype=np.int64, count=len(ids))


def mapped_rows(path: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Return a memory map of a dump that may be cut off: rows that are not there are zero, which fits no checksum."""
    rows, width = shape
    offset, row_bytes = len(npy_header(shape, dtype)), np.dtype(dtype).itemsize * width
    size_bytes = path.stat().st_size if path.exists() else 0
    there = max(0, min(rows, (size_bytes - offset) // row_bytes))
    if there == rows:
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    whole = np.zeros(shape, dtype=dtype)
    if there:
        whole[:there] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(there, width))
    return whole


def settings_by_row(runs: Sequence[Mapping], rows: int) -> tuple[list[dict], np.ndarray]:
    """Return a sidecar's settings as distinct entries, and the number of each row's, (rows,) uint8."""
    settings: list[dict] = []
    by = np.zeros(rows, dtype=np.uint8)
    for run in runs:
        entry = {key: value for key, value in run.items() if key != "rows"}
        if entry not in settings:
            settings.append(entry)
        by[run["rows"][0] : run["rows"][1]] = settings.index(entry)
    return settings, by
