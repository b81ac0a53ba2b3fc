"""Matrices computed from dumps, kept like dumps: written in blocks, resumed after an interruption, never
mixed up.

`<label>-<digest>.<name>.npy` holds each matrix; `<label>-<digest>.json`, written last, says what they are.
While being computed they are called `.partial`, beside a note of the rows done.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from filelock import FileLock

from competition.atomic import sync_folder, write_json
from competition.errors import Top7Error

BLOCK_ROWS = 4096
Block = Sequence[np.ndarray]
_USED: ContextVar[list[Path] | None] = ContextVar("used", default=None)


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
) -> dict[str, np.ndarray]:
    """Return the matrices `columns` names, computed block by block, or opened as memmaps where they are
    complete.

    folder: where they are kept (None: in memory only); recipe: JSON-able, everything the values depend on;
    columns: name -> (width, dtype), width 0 for a vector; compute(start, stop) -> their rows, in the order of
    `columns`. An interrupted call resumes at its first unfinished block. Raises Top7Error for a full disk and
    for damaged files.
    """
    if folder is None:
        parts = {name: np.empty(_shape(rows, width), dtype) for name, (width, dtype) in columns.items()}
        _fill(parts, 0, rows, block_rows, compute, label, progress, lambda stop: None)
        return parts
    stem = Path(folder) / f"{label}-{digest_of(recipe)}"
    paths = {name: stem.with_name(f"{stem.name}.{name}.npy") for name in columns}
    sidecar = stem.with_name(stem.name + ".json")
    if not sidecar.exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        lock = stem.with_name(f".{stem.name}.lock")
        with FileLock(lock):  # several workers of a study may want it at once
            if not sidecar.exists():
                _write(stem, paths, sidecar, recipe, rows, columns, compute, block_rows, label, progress)
        lock.unlink(missing_ok=True)  # whoever still waits for it finds the sidecar
    note_files(sidecar, *(paths.values() if rows else ()))
    return {
        name: _opened(path, _shape(rows, columns[name][0]), columns[name][1], sidecar)
        for name, path in paths.items()
    }


def _shape(rows: int, width: int) -> tuple[int, ...]:
    return (rows, width) if width else (rows,)


def _opened(path: Path, shape: tuple[int, ...], dtype: str, sidecar: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False) if np.prod(shape) else np.empty(shape, dtype)
    except (OSError, ValueError) as error:
        raise Top7Error(
            f"{path}: missing or damaged ({' '.join(str(error).split())}): remove {sidecar} and run the "
            "same command again"
        ) from None
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise Top7Error(
            f"{path}: holds {found.shape} {found.dtype}, expected {shape} {dtype}: remove {sidecar} and run "
            "the same command again"
        )
    return found


def _write(stem, paths, sidecar, recipe, rows, columns, compute, block_rows, label, progress) -> None:
    partial = {name: path.with_name(path.name + ".partial") for name, path in paths.items()}
    note = stem.with_name(stem.name + ".partial.json")
    done = _rows_done(note, partial, rows, columns)
    needed = sum(rows * max(1, width) * np.dtype(dtype).itemsize for width, dtype in columns.values())
    free = shutil.disk_usage(stem.parent).free
    if not done and needed > free:
        raise Top7Error(
            f"{stem.parent}: {label} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: free some "
            "space, or give another --work"
        )
    mode = "r+" if done else "w+"
    maps = {
        name: np.lib.format.open_memmap(
            partial[name], mode, dtype=columns[name][1], shape=_shape(rows, columns[name][0])
        )
        if rows
        else np.empty(0)
        for name in columns
    }

    def finished(stop: int) -> None:
        for part in maps.values():
            if rows:
                part.flush()
        write_json(note, {"rows_done": stop})

    try:
        _fill(maps, done, rows, block_rows, compute, label, progress, finished)
    except OSError as error:
        raise Top7Error(
            f"{stem.parent}: {label} could not be written: {error.strerror or error}; the finished part is "
            "kept, run the same command again"
        ) from None
    maps.clear()
    for name in columns:
        if rows:
            os.replace(partial[name], paths[name])
    sync_folder(stem.parent)
    write_json(
        sidecar,
        {
            "format": 1,
            "recipe": dict(recipe),
            "rows": rows,
            "columns": {name: list(value) for name, value in columns.items()},
        },
    )
    note.unlink(missing_ok=True)


def _rows_done(
    note: Path, partial: Mapping[str, Path], rows: int, columns: Mapping[str, tuple[int, str]]
) -> int:
    """Return how many rows an interrupted call has finished; 0 unless all its files are there and fit."""
    try:
        done = int(json.loads(note.read_text(encoding="utf-8"))["rows_done"])
        for name, path in partial.items():
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape != _shape(rows, columns[name][0]) or found.dtype != np.dtype(columns[name][1]):
                return 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return min(max(done, 0), rows)


def _fill(maps, done, rows, block_rows, compute, label, progress, finished) -> None:
    from tqdm import tqdm

    with tqdm(total=rows, initial=done, unit="row", unit_scale=True, desc=label, disable=not progress) as bar:
        for start in range(done, rows, block_rows):
            stop = min(start + block_rows, rows)
            for part, values in zip(maps.values(), compute(start, stop), strict=True):
                part[start:stop] = values
            finished(stop)
            bar.update(stop - start)
