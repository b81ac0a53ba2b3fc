"""The JSON beside a dump: what it says, written and read back with every value checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from competition.errors import Top7Error
from features.dumps import seals

FORMAT = 1
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Unreadable(msgspec.Struct):
    row: Count
    id: str
    reason: str


class _Run(msgspec.Struct):
    rows: tuple[int, int]  # first, last + 1


class _Sidecar(msgspec.Struct):
    """The keys of a sidecar; the last three, together, of dumps that were extracted."""

    format: Literal[1]  # FORMAT
    shape: tuple[Count, Count]
    dtype: Literal["float32", "float16"]
    ids: list[str]
    recipe: dict
    unreadable: list[_Unreadable]
    column_sum: list[float] | msgspec.UnsetType = msgspec.UNSET
    images: str | msgspec.UnsetType = msgspec.UNSET
    columns: list[str] | msgspec.UnsetType = msgspec.UNSET
    settings: list[_Run] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        rows, width = self.shape
        if len(self.ids) != rows or any(entry.row >= rows for entry in self.unreadable):
            raise ValueError(f"other ids or unreadable rows than its {rows} rows")
        if isinstance(self.column_sum, list) and len(self.column_sum) != width:
            raise ValueError(f"sums of {len(self.column_sum)} columns, not of its {width}")
        if isinstance(self.images, str) and (
            Path(self.images).name != self.images or msgspec.UNSET in (self.columns, self.settings)
        ):
            raise ValueError("images: expected a file's name, with columns and settings beside it")


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
    try:
        msgspec.convert(found, _Sidecar)
    except msgspec.ValidationError as error:
        raise DamagedSidecar(
            f"{sidecar}: not a dump's sidecar: {str(error):.160}: run ./run.sh extract to write it again"
        ) from None
    return found


def sidecar_for(
    shape: Sequence[int],
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
        "unreadable": list(unreadable),
        **more,
    }
