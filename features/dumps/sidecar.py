"""The JSON beside a dump: what it says, written and read back with every value checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from competition.errors import Top7Error
from features.dumps import seals

FORMAT = 1


class DamagedSidecar(Top7Error):
    """The JSON beside a dump is not what was written."""


def beside(path: Path, suffix: str) -> Path:
    """A dump's file of another kind: .json, .norms.npy, .sums.npy."""
    return path.with_name(path.name.removesuffix(".npy") + suffix)


def read_sidecar(path: Path) -> dict:
    """The sidecar of the dump `path`. Top7Error: none there, or not one of ours."""
    sidecar = beside(Path(path), ".json")
    try:
        found = seals.unsealed(sidecar.read_bytes())
    except FileNotFoundError:
        raise Top7Error(
            f"{Path(path).absolute()}: no such dump, or an unfinished one: run ./run.sh extract, or give the folder "
            "of the dumps with --work"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DamagedSidecar(
            f"{sidecar}: damaged ({error}): run ./run.sh extract to write it again"
        ) from None
    for key, (fits, words) in SIDECAR.items():
        if (key in found or key not in OPTIONAL) and not fits(found.get(key), found):
            raise DamagedSidecar(
                f"{sidecar}: not a dump's sidecar: {key} = {found.get(key)!r:.60}: expected {words}: run ./run.sh "
                "extract to write it again"
            )
    return found


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {kind}


def _fit_unreadable(entries: Any, sidecar: Mapping) -> bool:
    if not _are(dict, entries):
        return False
    rows = [entry.get("row") for entry in entries]
    told = [entry.get(key) for entry in entries for key in ("id", "reason")]
    return _are(int, rows) and all(0 <= row < len(sidecar["ids"]) for row in rows) and _are(str, told)


def _fit_settings(runs: Any, sidecar: Mapping) -> bool:
    return _are(dict, runs) and all(_are(int, run.get("rows")) and len(run["rows"]) == 2 for run in runs)


# the last three together: of dumps that were extracted
OPTIONAL = ("column_sum", "images", "columns", "settings")
# the keys of a sidecar, checked in this order: whether a value fits, and what is expected
SIDECAR: dict[str, tuple[Callable[[Any, Mapping], bool], str]] = {
    "format": (lambda value, _: value == FORMAT, str(FORMAT)),
    "shape": (
        lambda shape, _: _are(int, shape) and len(shape) == 2 and min(shape) >= 0,
        "numbers of rows and columns",
    ),
    "dtype": (lambda dtype, _: dtype in ("float32", "float16"), "float32 or float16"),
    "ids": (
        lambda ids, sidecar: _are(str, ids) and len(ids) == sidecar["shape"][0],
        "a text for each row",
    ),
    "recipe": (lambda recipe, _: isinstance(recipe, dict), "an object"),
    "unreadable": (_fit_unreadable, "objects with a row, an id and a reason"),
    "column_sum": (
        lambda sums, sidecar: (
            isinstance(sums, list)
            and all(type(total) is float or type(total) is int and abs(total) < 2**53 for total in sums)
            and len(sums) == sidecar["shape"][1]
        ),
        "a number for each column",
    ),
    "images": (
        lambda name, sidecar: (
            isinstance(name, str) and Path(name).name == name and {"columns", "settings"} <= sidecar.keys()
        ),
        "a file's name, with columns and settings beside it",
    ),
    "columns": (lambda names, _: _are(str, names), "file names"),
    "settings": (_fit_settings, "objects with rows = [first, last + 1]"),
}


def sidecar_for(
    *,
    shape: tuple[int, int],
    dtype: str,
    ids: Sequence[str],
    recipe: Mapping,
    unreadable: Sequence[Mapping],
    **more: Any,
) -> dict:
    """The content of a sidecar.

    more: further keys: precision and settings of the run, the images' record, column_sum: (D,) floats, which spare a
    study one reading of the gallery.
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
