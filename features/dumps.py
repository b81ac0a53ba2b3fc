"""Descriptor dumps: a plain .npy matrix, one L2-normalised row an image, and a JSON sidecar that says what it
is.

Beside `<name>.npy` stand `<name>.norms.npy` (n,) float32, the norms before L2; `<name>.sums.npy` (n,) uint32,
a checksum of each row and its norm; and `<name>.json`, written last: without it the dump is not there.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.errors import Top7Error

FORMAT = 1
DAMAGE = ".damaged.json"  # beside a dump that `verify` found damaged
SUM_ROWS = 1024  # float32 partial sums over this many unit rows lose less than 1e-6


@dataclass(frozen=True)
class Dump:
    """An opened dump. descriptors: (n, D) float32 or float16 memory map; norms: (n,) float32; unreadable:
    (n,) bool.

    sidecar: the rest of its JSON file.
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
        return np.array(kept) - column_sum(self.descriptors[more])


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


def file_label(*parts: object) -> str:
    """Join `parts` with dots into a file name; characters outside [A-Za-z0-9_.=-] become _."""
    return re.sub(r"[^A-Za-z0-9_.=-]", "_", ".".join(str(part) for part in parts))


def beside(path: Path, suffix: str) -> Path:
    """A dump's file of another kind: .json, .norms.npy, .sums.npy."""
    return path.with_name(path.name.removesuffix(".npy") + suffix)


def row_sums(descriptors: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """CRC-32 of each row's bytes followed by its norm's, (n,) uint32."""
    rows, lengths = np.ascontiguousarray(descriptors), np.ascontiguousarray(norms, dtype=np.float32)
    return np.array(
        [
            zlib.crc32(lengths[row : row + 1].tobytes(), zlib.crc32(rows[row].tobytes()))
            for row in range(len(rows))
        ],
        dtype=np.uint32,
    )


def read_sidecar(path: Path) -> dict:
    """The sidecar of the dump `path`. Top7Error: none there, or not one of ours."""
    sidecar = beside(Path(path), ".json")
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Top7Error(f"{path}: no such dump, or an unfinished one: run ./run.sh extract") from None
    except ValueError as error:
        raise Top7Error(f"{sidecar}: not valid JSON ({error}): remove it and run ./run.sh extract") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Top7Error(
            f"{sidecar}: not a dump's sidecar of format {FORMAT}: remove it and run ./run.sh extract"
        )
    return found


def open_dump(path: Path | str, *, ids: Sequence[str] | None = None, recipe: Mapping | None = None) -> Dump:
    """Open a complete dump as a memory map and compare it with what is asked for.

    ids: the row ids expected, in order (None: whatever it has); recipe: the recipe expected.
    Top7Error, one line: missing, truncated, another shape, another recipe, other ids.
    """
    path = Path(path)
    sidecar = read_sidecar(path)
    matrix = _mapped(path, tuple(sidecar["shape"]), sidecar["dtype"])
    norms = np.asarray(_mapped(beside(path, ".norms.npy"), tuple(sidecar["shape"][:1]), "float32"))
    if recipe is not None and (difference := recipe_difference(sidecar["recipe"], recipe)):
        raise Top7Error(
            f"{path}: a dump of another recipe: {difference}: run ./run.sh extract with this configuration"
        )
    if ids is not None and list(ids) != sidecar["ids"]:
        raise Top7Error(f"{path}: {ids_difference(sidecar['ids'], ids)}: run ./run.sh extract again")
    unreadable = np.zeros(len(matrix), dtype=bool)
    unreadable[[entry["row"] for entry in sidecar["unreadable"]]] = True
    own = sidecar.pop("ids")
    return Dump(
        path, tuple(own if ids is None else ids), matrix, norms, unreadable, sidecar["recipe"], sidecar
    )


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise Top7Error(
            f"{path}: the file is missing beside its sidecar: run ./run.sh extract to write it again"
        ) from None
    except (ValueError, OSError, EOFError) as error:
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


def recipe_difference(found: Mapping, expected: Mapping) -> str:
    """The first key in which two recipes differ, in words; empty if none."""
    for key in sorted(found.keys() | expected.keys()):
        if _plain(found.get(key)) != _plain(expected.get(key)):
            return f"{key} is {found.get(key)!r}, expected {expected.get(key)!r}"
    return ""


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, default=str))


def ids_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """How the row ids of a dump differ from those asked for, in words."""
    if len(found) != len(expected):
        return f"holds {len(found)} rows, expected {len(expected)} images"
    row = next(row for row, (a, b) in enumerate(zip(found, expected)) if a != b)
    return f"row {row} is the image {found[row]!r}, expected {expected[row]!r}"


def sidecar_for(
    *,
    shape: tuple[int, int],
    dtype: str,
    ids: Sequence[str],
    recipe: Mapping,
    unreadable: Sequence[Mapping],
    **more: object,
) -> dict:
    """The content of a sidecar; `more` are further keys (precision and settings of the run, the images' record,
    column_sum: (D,) floats, which spare a study one reading of the gallery).
    """
    return {
        "format": FORMAT,
        "shape": list(shape),
        "dtype": dtype,
        "ids": list(ids),
        "recipe": dict(recipe),
        "unreadable": sorted((dict(entry) for entry in unreadable), key=lambda entry: entry["row"]),
        **more,
    }


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The bytes before the data of a .npy file of this shape, C order."""
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream,
        {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape},
    )
    return stream.getvalue()
