"""The papers' data sets, each read from its original archives' layout by a small file of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from competition.datasets import folders, holidays, oxford_paris, perfect500k, revisited
from competition.datasets.dataset import Dataset, Truth, with_distractors
from competition.errors import Top7Error

__all__ = ["FORMATS", "OFFICIAL", "Dataset", "Truth", "below", "detect", "load_dataset"]

FORMATS: dict[str, Callable[[Path, str], Dataset]] = {
    "oxford5k": oxford_paris.load,
    "paris6k": oxford_paris.load,
    "roxford5k": revisited.load,
    "rparis6k": revisited.load,
    "holidays": holidays.load,
    "perfect500k-2018": perfect500k.load,
    "perfect500k-2020": perfect500k.load,
    "folders": folders.load,
}
# gallery images and queries of the whole set, as published
OFFICIAL = {
    "oxford5k": (5063, 55),
    "paris6k": (6412, 55),
    "roxford5k": (4993, 70),
    "rparis6k": (6322, 70),
    "holidays": (1491, 500),
}


@lru_cache(maxsize=2)
def load_dataset(name: str, folder: Path, distractors: Path | None = None) -> Dataset:
    """Read the data set `name` below `folder`; Top7Error, one line, for what is missing or wrong."""
    dataset = FORMATS[name](Path(folder), name)
    return dataset if distractors is None else with_distractors(dataset, distractors)


def below(folder: Path) -> dict[str, Path]:
    """Return the data sets in folders of their names below `folder`, by name; else the one that it is itself."""
    named = {name: Path(folder) / name for name in FORMATS if (Path(folder) / name).is_dir()}
    return named or {detect(folder): Path(folder)}


def detect(folder: Path) -> str:
    """Say which data set lies below `folder`, by its ground truth and its names; Top7Error where it is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise Top7Error(
            f"{folder}: no such folder: give --data the folder that the archives were unpacked into"
        )
    for name in ("roxford5k", "rparis6k"):
        if any(folder.rglob(f"gnd_{name}.*")):
            return name
    if queries := list(folder.rglob("*_query.txt")):
        paris = sum("paris" in path.read_text(encoding="utf-8", errors="replace")[:40] for path in queries)
        return "paris6k" if paris > len(queries) / 2 else "oxford5k"
    stems = [path.stem for path in folder.rglob("*.[jJ][pP]*") if not path.name.startswith(".")]
    if any(holidays.NAME.fullmatch(stem) for stem in stems):
        return "holidays"
    for name, pattern in perfect500k.GALLERY.items():
        if any(pattern.fullmatch(stem) for stem in stems):
            return name
    return "folders"
