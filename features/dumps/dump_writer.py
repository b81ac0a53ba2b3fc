"""Dumps being written: their rows, and a record for each image with its norm and checksum in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from competition.images import ids_digest
from features.dumps.dump import DAMAGE, column_sum, recipe_digest, row_sums
from features.dumps.seals import sealed_text
from features.dumps.sidecar import beside, sidecar_for
from features.dumps.writer import BLOCK_ROWS, COMMIT_EVERY_S, RowFile, RowWriter, label_of, npy_header


def record_type(columns: int, image: Sequence[tuple] = ()) -> np.dtype:
    """Return the type of one image's record: what is known of it, then its norm and checksum in each dump."""
    return np.dtype([*image, ("norms", "<f4", (columns,)), ("sums", "<u4", (columns,))])


class DumpWriter(RowWriter):
    """Dumps of the same images that share a journal.

    dumps: {file name: (width, dtype)}; image: further fields of the record; record: the name it is kept under (None:
    it is removed at the end).
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        dumps: Mapping[str, tuple[int, str]],
        ids: Sequence[str],
        *,
        image: Sequence[tuple] = (),
        record: str | None = None,
        window_rows: int,
        about: Mapping[str, Any] | None = None,
        unwanted: Iterable[str] = (),
    ) -> None:
        self.dumps, self.ids, self.record = list(dumps), ids, record or "records"
        files = {name: RowFile((len(ids), width), np.dtype(dtype)) for name, (width, dtype) in dumps.items()}
        kind = record_type(len(dumps), image)
        files[self.record] = RowFile((len(ids),), kind, raw=True, scratch=record is None)
        super().__init__(
            folder,
            label,
            files,
            rows=len(ids),
            window_rows=window_rows,
            about={"ids": ids_digest(ids), **(about or {})},
            unwanted=unwanted,
        )

    def write_rows(
        self, rows: range, matrices: Mapping[str, np.ndarray], records: np.ndarray, **noted: object
    ) -> None:
        """Write one window of every dump. records (m,): all filled in but for the checksums of the rows."""
        for name, matrix in matrices.items():
            column, kept = self.dumps.index(name), matrix.astype(self.files[name].dtype, copy=False)
            records["sums"][:, column] = row_sums(kept, records["norms"][:, column])
        self.write(rows, {**matrices, self.record: records}, **noted)

    def finish_dumps(
        self,
        recipes: Mapping[str, Mapping],
        unreadable: Mapping[int, str],
        *,
        gone: Iterable[str] = (),
        **more: Any,
    ) -> None:
        """Give the dumps of `recipes`, by name, their names.

        unreadable: {row: reason}; more: further keys of the sidecars; gone: see `finish`.
        """
        records, ids = self.mapped(self.record), self.ids
        bad = [{"row": row, "id": ids[row], "reason": reason} for row, reason in sorted(unreadable.items())]

        def small_files() -> Iterator[tuple[str, bytes]]:
            for name, recipe in recipes.items():
                for kind in ("norms", "sums"):
                    values = np.ascontiguousarray(records[kind][:, self.dumps.index(name)])
                    data = npy_header(values.shape, values.dtype) + values.tobytes()
                    yield beside(Path(name), f".{kind}.npy").name, data
                shape, dtype = self.files[name].shape, str(self.files[name].dtype)
                sidecar = sidecar_for(shape, dtype, ids, recipe, bad, **more)
                sidecar["column_sum"] = column_sum(self.mapped(name)).tolist()
                yield beside(Path(name), ".json").name, sealed_text(sidecar).encode()

        self.finish(small_files(), [*gone, *(beside(Path(name), DAMAGE).name for name in recipes)])


def write_dump(
    path: Path,
    rows: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    *,
    shape: tuple[int, int],
    dtype: str,
    ids: Sequence[str],
    recipe: Mapping,
    unreadable: Mapping[int, str] | str,
    **more: Any,
) -> Path:
    """Write a whole dump block by block, or what an interrupted call left of it; returns `path`.

    rows(start, stop): unit rows (m, D) and their norms (m,); unreadable: {row: reason}, or the reason why rows
    without a norm are; more: further keys of the sidecar, which a half-written dump must share to be continued.
    Top7Error where the disk is full.
    """
    about = {"recipe": recipe_digest(recipe), **more}
    dumps, label = {path.name: (shape[1], dtype)}, label_of(path.name)
    with DumpWriter(path.parent, label, dumps, ids, window_rows=BLOCK_ROWS, about=about) as writer:
        for window in writer.windows_left():
            matrix, norms = rows(window.start, window.stop)
            records = np.zeros(len(window), dtype=writer.files[writer.record].dtype)
            records["norms"][:, 0] = norms
            writer.write_rows(window, {path.name: matrix}, records)
            writer.commit(every_s=COMMIT_EVERY_S)
        if isinstance(unreadable, str):
            lengths = writer.mapped(writer.record)["norms"][:, 0]
            unreadable = dict.fromkeys(np.flatnonzero(lengths == 0).tolist(), unreadable)
        more = {"column_sum": [], **more}  # its place in the file
        writer.finish_dumps({path.name: recipe}, unreadable, **more)
    return path
