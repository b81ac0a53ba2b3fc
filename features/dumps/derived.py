"""Matrices computed from dumps, kept like dumps: written in blocks, resumed after an interruption, never
mixed up.

`<label>-<digest>.<name>.npy` holds each matrix; `<label>-<digest>.json`, written last, says what they are and seals
them (features/dumps/seals.py). While being computed they are called `.partial`, beside a note of the rows done. What is
damaged, or of an earlier version, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from filelock import FileLock

from competition.atomic import sync_folder, write_json
from competition.errors import Top7Error
from competition.messages import log
from competition.progress import Progress
from features.dumps import budget, seals

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
    shapes = {name: (_shape(rows, width), dtype) for name, (width, dtype) in columns.items()}
    if (found := _opened(sidecar, paths, shapes)) is None:
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            lock = stem.with_name(f".{stem.name}.lock")
            with FileLock(lock):  # several workers of a study may want it at once
                if (found := _opened(sidecar, paths, shapes)) is None:
                    if sidecar.exists():
                        log.warning(f"{sidecar}: damaged, or of an earlier version: computed again")
                        sidecar.unlink()
                    about = {"format": 2, "recipe": dict(recipe), "rows": rows}
                    about["columns"] = {name: list(value) for name, value in columns.items()}
                    _write(paths, shapes, sidecar, about, compute, block_rows, label, progress)
                    found = _opened(sidecar, paths, shapes)
            lock.unlink(missing_ok=True)  # whoever still waits for it finds the sidecar
        except OSError as error:
            raise Top7Error(
                f"{stem.parent}: {label} could not be written: {error.strerror or error}; the finished part is "
                "kept, run the same command again"
            ) from None
    if found is None:
        raise Top7Error(f"{sidecar}: just written and damaged already: check the disk")
    note_files(sidecar, *(paths.values() if rows else ()))
    return found


def _shape(rows: int, width: int) -> tuple[int, ...]:
    return (rows, width) if width else (rows,)


def _opened(sidecar: Path, paths: Mapping[str, Path], shapes: Mapping) -> dict[str, np.ndarray] | None:
    """Return the matrices as memmaps; None where one is missing or damaged."""
    if seals.whole(sidecar) is None:
        return None
    opened = {}
    for name, path in paths.items():
        shape, dtype = shapes[name]
        try:
            found = (
                np.load(path, mmap_mode="r", allow_pickle=False) if np.prod(shape) else np.empty(shape, dtype)
            )
        except Exception:  # a damaged header ends in any of Python's errors
            return None
        if found.shape != shape or found.dtype != np.dtype(dtype):
            return None
        opened[name] = found
    seals.touch(sidecar)
    if opened:
        budget.hold(sidecar, max(opened.values(), key=lambda matrix: matrix.nbytes))
    return opened


def _write(paths, shapes, sidecar: Path, about, compute, block_rows: int, label: str, progress: bool) -> None:
    """Compute the matrices block by block under other names, noting after each what is done, with its sums."""
    rows = about["rows"]
    partial = {name: path.with_name(path.name + ".partial") for name, path in paths.items()} if rows else {}
    note = sidecar.with_name(sidecar.stem + ".partial.json")
    done, sums = _rows_done(note, partial, shapes, rows)
    needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    budget.make_room(needed)
    free = shutil.disk_usage(sidecar.parent).free
    if not done and needed > free:
        raise Top7Error(
            f"{sidecar.parent}: {label} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: free some "
            "space, or give another --work"
        )
    maps = {name: np.empty(0, dtype) for name, (_, dtype) in shapes.items()}
    try:
        for name, path in partial.items():
            shape, dtype = shapes[name]
            if done:
                maps[name] = np.lib.format.open_memmap(path, "r+")
            else:
                maps[name] = seals.reserve(path, shape, dtype)
                sums[name] = seals.file_sum(path, maps[name].offset)
    except Top7Error:
        for path in partial.values():
            path.unlink(missing_ok=True)
        raise
    upto = done

    def finished(stop: int) -> None:
        nonlocal upto
        for name in partial:
            maps[name].flush()
            sums[name] = zlib.crc32(np.ascontiguousarray(maps[name][upto:stop]), sums[name])
        upto = stop
        write_json(note, {"rows_done": stop, "sums": sums})

    _fill(maps, done, rows, block_rows, compute, label, progress, finished)
    maps.clear()
    for name, path in partial.items():
        os.replace(path, paths[name])
    sync_folder(sidecar.parent)
    files = {paths[name].name: total for name, total in sums.items()}
    seals.seal(sidecar, [paths[name] for name in partial], files, **about)
    note.unlink(missing_ok=True)


def _rows_done(
    note: Path, partial: Mapping[str, Path], shapes: Mapping, rows: int
) -> tuple[int, dict[str, int]]:
    """Return how many rows an interrupted call has finished, and each file's sum up to there; 0 unless all files are
    there, fit, and hold what was noted.
    """
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        done, sums = min(int(found["rows_done"]), rows), {name: int(found["sums"][name]) for name in partial}
        for name, path in partial.items():
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
            row_bytes = matrix[:1].nbytes
            same = (matrix.shape, matrix.dtype) == (shapes[name][0], np.dtype(shapes[name][1]))
            if not same or seals.file_sum(path, matrix.offset + done * row_bytes) != sums[name]:
                return 0, {}
        return max(done, 0), sums
    except Exception:  # whatever Python makes of a damaged note or header: the rows are computed again
        return 0, {}


def _fill(maps, done, rows, block_rows, compute, label, progress, finished) -> None:
    with Progress(
        total=rows, initial=done, unit="row", unit_scale=True, desc=label, leave=False, shown=progress
    ) as bar:
        for start in range(done, rows, block_rows):
            stop = min(start + block_rows, rows)
            for part, values in zip(maps.values(), compute(start, stop), strict=True):
                part[start:stop] = values
            finished(stop)
            bar.update(stop - start)
