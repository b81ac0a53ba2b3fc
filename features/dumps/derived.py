"""Matrices computed from dumps and kept beside them: written in blocks, sealed, made once and opened ever after.

`<label>-<digest>.<name>.npy` holds each matrix; `<label>-<digest>.json`, written last, says what they are and seals them
(features/dumps/seals.py). What is damaged, or of an earlier version, is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock

from competition.errors import Top7Error
from competition.messages import log
from competition.progress import Progress
from features.dumps import budget, seals
from features.dumps.writer import BLOCK_ROWS, COMMIT_EVERY_S, RowFile, RowWriter, complete, label_of

Block = Sequence[np.ndarray]
T = TypeVar("T")
_USED: ContextVar[list[Path] | None] = ContextVar("used", default=None)


def made_once(path: Path, opened: Callable[[], T | None], make: Callable[[], object]) -> T:
    """Return what `opened` finds; where it finds nothing, one process makes it while the others wait.

    path: what is made, for the name of the lock beside it. Top7Error: it is damaged as soon as it is made.
    """
    if (found := opened()) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with FileLock(lock):
            if (found := opened()) is None:
                make()
                found = opened()
        lock.unlink(missing_ok=True)  # whoever still waits for it finds the file
    if found is None:
        raise Top7Error(f"{path}: just written and damaged already: check the disk")
    return found


@contextmanager
def noting_files() -> Iterator[list[Path]]:
    """Give the list of kept files that what runs inside the block opens or makes; see `note_files`."""
    used: list[Path] = []
    token = _USED.set(used)
    try:
        yield used
    finally:
        _USED.reset(token)


def note_files(*paths: Path) -> None:
    """Put files on the list of `noting_files`, if somebody keeps one."""
    if (used := _USED.get()) is not None:
        used += paths


def digest_of(value: object) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def content_digest(rows: np.ndarray) -> str:
    """Return 12 hexadecimal digits that identify the shape, type and bytes of a matrix, read in blocks."""
    digest = hashlib.sha256(repr((tuple(rows.shape), str(rows.dtype))).encode())
    for start in range(0, len(rows), BLOCK_ROWS):
        digest.update(np.ascontiguousarray(rows[start : start + BLOCK_ROWS]).tobytes())
    return digest.hexdigest()[:12]


def derived(
    folder: Path | None,
    label: str,
    recipe: Mapping,
    rows: int,
    columns: Mapping[str, tuple[int, str]],
    compute: Callable[[int, int], Block],
    *,
    block_rows: int = BLOCK_ROWS,
    progress: bool = False,
    effort: tuple[str, Callable[[int, int], int]] = ("row", lambda start, stop: stop - start),
) -> dict[str, np.ndarray]:
    """Return the matrices that `columns` names: opened as memory maps where they are complete, else computed.

    folder: where they are kept (None: in memory only); recipe: JSON-able, everything the values depend on;
    columns: name -> (width, dtype), width 0 for a vector; compute(start, stop) -> their rows, in the order of
    `columns`; effort: what the bar counts, and how many of it the rows start to stop are. An interrupted call
    goes on at its first unfinished block. Raises Top7Error for a full disk.
    """
    shapes = {name: (rows, width) if width else (rows,) for name, (width, _) in columns.items()}
    unit, count = effort
    bar = partial(
        Progress, total=count(0, rows), unit=unit, unit_scale=True, desc=label, leave=False, shown=progress
    )
    if folder is None:
        found = {name: np.empty(shapes[name], dtype) for name, (_, dtype) in columns.items()}
        with bar() as told:
            for start in range(0, rows, block_rows):
                stop = min(start + block_rows, rows)
                for matrix, values in zip(found.values(), compute(start, stop), strict=True):
                    matrix[start:stop] = values
                told.update(count(start, stop))
        return found
    stem = f"{label}-{digest_of(recipe)}"
    sidecar = Path(folder) / f"{stem}.json"
    names = {name: f"{stem}.{name}.npy" for name in columns}
    files = {names[name]: RowFile(shapes[name], np.dtype(dtype)) for name, (_, dtype) in columns.items()}
    writer = RowWriter(sidecar.parent, label_of(stem), files, rows=rows, window_rows=block_rows)

    def opened() -> dict[str, np.ndarray] | None:
        complete(writer.journal)
        if seals.intact(sidecar) is None:
            return None
        there = {}
        for column, name in names.items():
            try:
                there[column] = np.load(sidecar.with_name(name), mmap_mode="r", allow_pickle=False)
            except Exception:  # a damaged header ends in any of Python's errors
                return None
            if (there[column].shape, there[column].dtype) != (files[name].shape, files[name].dtype):
                return None
        seals.touch(sidecar)
        budget.hold(sidecar, max(there.values(), key=lambda matrix: matrix.nbytes))
        return there

    def make() -> None:
        if sidecar.exists():
            log.warning(f"{sidecar}: damaged, or of an earlier version: computed again")
            sidecar.unlink()
        budget.make_room(sum(file.size_bytes for file in files.values()))
        with writer:
            left = list(writer.windows_left())
            to_do = sum(count(window.start, window.stop) for window in left)
            with bar(initial=count(0, rows) - to_do) as told:
                for window in left:
                    values = compute(window.start, window.stop)
                    writer.write(window, dict(zip(files, map(np.asarray, values), strict=True)))
                    writer.commit(every_s=COMMIT_EVERY_S)
                    told.update(count(window.start, window.stop))
            about = {"format": 2, "recipe": dict(recipe), "rows": rows}
            about["columns"] = {name: list(value) for name, value in columns.items()}
            writer.commit()
            sealed = seals.sealing({name: writer.partial(name) for name in writer.files}, **about)
            writer.finish([(sidecar.name, sealed.encode())])

    try:
        found = made_once(sidecar.with_suffix(""), opened, make)
    except OSError as error:
        raise Top7Error(
            f"{sidecar.parent}: {label} could not be written: {error.strerror or error}; the finished part is "
            "kept, run the same command again"
        ) from None
    note_files(sidecar, *(sidecar.with_name(name) for name in writer.files))
    return found
