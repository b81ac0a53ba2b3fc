"""Descriptor dumps: a plain .npy matrix, one L2-normalised row an image, and a JSON sidecar that describes it.

Beside `<name>.npy` are `<name>.norms.npy` (n,) float32, the norms before L2; `<name>.sums.npy` (n,) uint32, a checksum
of each row and its norm; and `<name>.json` (`seals.sealed_text`), written last: without it the dump is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.errors import Top7Error
from features.dumps.sidecar import beside, read_sidecar
from features.dumps.writer import BLOCK_ROWS, RowFile

DAMAGE = ".damaged.json"  # beside a dump that `verify` found damaged
SUM_ROWS = 1024  # float32 partial sums over this many unit rows lose less than 1e-6


@dataclass(frozen=True)
class Dump:
    """An opened dump.

    descriptors: (n, D) float32 or float16 memory map; norms: (n,) float32; unreadable: (n,) bool; sidecar: the rest of
    its JSON file.
    """

    path: Path
    ids: tuple[str, ...]
    descriptors: np.ndarray
    norms: np.ndarray
    unreadable: np.ndarray
    recipe: dict
    sidecar: dict

    def column_sum(self, skip: np.ndarray) -> np.ndarray:
        """Return the sum of the rows not in `skip` (n,) bool, (D,) float64; from the sidecar where it is kept."""
        kept = self.sidecar.get("column_sum")
        if kept is None:
            return column_sum(self.descriptors, skip)
        more = np.flatnonzero(skip & ~self.unreadable)  # unreadable rows are zero
        return np.array(kept, dtype=np.float64) - column_sum(self.descriptors[more])


def column_sum(descriptors: np.ndarray, skip: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of the rows of (n, D) floats not in `skip` (n,) bool, (D,) float64, streamed."""
    total = np.zeros(descriptors.shape[1])
    for start in range(0, len(descriptors), SUM_ROWS):
        block = descriptors[start : start + SUM_ROWS]
        if skip is not None and (gone := skip[start : start + SUM_ROWS]).any():
            block = block[~gone]
        total += np.add.reduce(block, axis=0, dtype=np.float32)
    return total


def recipe_digest(recipe: Mapping) -> str:
    """The 12 hexadecimal digits in a dump's name: SHA-256 of the recipe as canonical JSON."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_label(*parts: Any) -> str:
    """Join `parts` with dots into a file name; characters outside [A-Za-z0-9_.=-] become _."""
    return re.sub(r"[^A-Za-z0-9_.=-]", "_", ".".join(str(part) for part in parts))


def row_sums(descriptors: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """CRC-32 of each row's bytes followed by its norm's, (n,) uint32."""
    rows, lengths = np.ascontiguousarray(descriptors), np.ascontiguousarray(norms, dtype=np.float32)
    sums = [zlib.crc32(length.tobytes(), zlib.crc32(row.tobytes())) for row, length in zip(rows, lengths)]
    return np.array(sums, dtype=np.uint32)


def noted_damage(path: Path) -> int:
    """How many rows of the dump `path` the last `verify` found damaged; 0 where it found none."""
    try:
        return len(json.loads(beside(path, DAMAGE).read_bytes())["rows"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        return 1  # a damaged note is a note


def is_complete(path: Path, sidecar: Mapping) -> bool:
    """Whether the files of a dump are there in full, and `verify` noted no damage."""
    there = all(beside(path, suffix).exists() for suffix in (".npy", ".norms.npy", ".sums.npy"))
    size_bytes = RowFile(sidecar["shape"], np.dtype(sidecar["dtype"])).size_bytes
    return there and path.stat().st_size == size_bytes and not beside(path, DAMAGE).exists()


def open_dump(path: Path | str, *, ids: Sequence[str] | None = None) -> Dump:
    """Open a complete dump as a memory map and compare it with what is asked for.

    ids: the row ids expected, in order (None: whatever it has); its recipe's digest is in its name.
    Top7Error, one line: missing, truncated, another shape, other ids, or damage that `verify` noted.
    """
    path = Path(path)
    sidecar = read_sidecar(path)
    if rows := noted_damage(path):
        raise Top7Error(
            f"{path}: verify found {rows} damaged rows: run ./run.sh extract to compute them again"
        )
    matrix = _mapped(path, tuple(sidecar["shape"]), sidecar["dtype"])
    norms = np.asarray(_mapped(beside(path, ".norms.npy"), tuple(sidecar["shape"][:1]), "float32"))
    if ids is not None and list(ids) != sidecar["ids"]:
        raise Top7Error(f"{path}: {ids_difference(sidecar['ids'], ids)}: run ./run.sh extract again")
    unreadable = np.zeros(len(matrix), dtype=bool)
    unreadable[[entry["row"] for entry in sidecar["unreadable"]]] = True
    own = sidecar.pop("ids")
    named = tuple(own if ids is None else ids)
    return Dump(path, named, matrix, norms, unreadable, sidecar["recipe"], sidecar)


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise Top7Error(
            f"{path}: the file is missing beside its sidecar: run ./run.sh extract to write it again"
        ) from None
    except Exception as error:  # a damaged header ends in any of Python's errors, a SyntaxError among them
        raise Top7Error(
            f"{path}: truncated or damaged ({' '.join(str(error).split())}), expected {shape} {dtype}: run "
            "./run.sh extract to repair it"
        ) from None
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise Top7Error(
            f"{path}: holds {found.shape} {found.dtype}, its sidecar says {shape} {dtype}: run ./run.sh "
            "extract to repair it"
        )
    return found


def ids_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """How the row ids of a dump differ from those asked for, in words."""
    if len(found) != len(expected):
        return f"holds {len(found)} rows, expected {len(expected)} images"
    row = next(row for row, (a, b) in enumerate(zip(found, expected)) if a != b)
    return f"row {row} is the image {found[row]!r}, expected {expected[row]!r}"


def mapped_rows(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a memory map of a dump that may be cut off: rows that are not there are zero, which fits no checksum."""
    (rows, width), file = shape, RowFile(shape, np.dtype(dtype))
    offset, size_bytes = len(file.head), path.stat().st_size if path.exists() else 0
    there = max(0, min(rows, (size_bytes - offset) // file.row_bytes))
    if rows and there == rows:
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    whole = np.zeros(shape, dtype=dtype)
    if there:
        whole[:there] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(there, width))
    return whole


def bad_rows(path: Path) -> np.ndarray:
    """(m,) int64 rows whose bytes, or whose norm's, are not those that were written.

    All of them where the shape or the checksums are gone.
    """
    sidecar = read_sidecar(path)
    rows, file = sidecar["shape"][0], RowFile(tuple(sidecar["shape"]), np.dtype(sidecar["dtype"]))
    try:
        sums = _mapped(beside(path, ".sums.npy"), (rows,), "uint32")
        norms = _mapped(beside(path, ".norms.npy"), (rows,), "float32")
        with open(path, "rb") as stream:
            whole_head = stream.read(len(file.head)) == file.head
    except (Top7Error, FileNotFoundError):
        return np.arange(rows)
    size_bytes = path.stat().st_size
    if not whole_head or size_bytes > file.size_bytes:
        return np.arange(rows)
    there = (size_bytes - len(file.head)) // file.row_bytes
    matrix, bad = mapped_rows(path, file.shape, sidecar["dtype"]), np.ones(rows, dtype=bool)
    for start in range(0, there, BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, there))
        bad[block] = row_sums(matrix[block], norms[block]) != sums[block]
    return np.flatnonzero(bad)
