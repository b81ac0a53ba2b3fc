"""The data page: images that cannot be read, equal files, sizes and shapes, what the last extraction did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from competition.atomic import write_json
from competition.configuration import SPLITS, Configuration
from competition.configured import split_images
from competition.datasets.dataset import image_size
from features.dumps.layout import dumps_folder
from features.extraction import ExtractionReport

SAMPLE = 2_000  # images of a split whose size is looked at
MOST_ROWS = 200  # unreadable images, groups of equal files
LAST = "last_extraction.json"  # under work


def data_health(configuration: Configuration) -> dict[str, object]:
    """Return what the page shows, and its charts."""
    splits: list[dict] = []
    charts: dict[str, dict] = {}
    for split in SPLITS:
        if getattr(configuration.competition, split) is None:
            continue
        images = split_images(configuration, split)
        folder = dumps_folder(configuration, split)
        unreadable = _csv(folder / "unreadable.csv")
        equal = _groups(_csv(folder / "duplicates.csv"))
        told: dict[str, Any] = {"name": split, "images": len(images), "n_unreadable": len(unreadable)}
        told |= {"unreadable": unreadable[:MOST_ROWS], "equal": equal[:MOST_ROWS], "n_equal": len(equal)}
        splits.append({**told, "n_copies": sum(len(group) - 1 for group in equal)})
        looked_at = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int))
        known = filter(None, (image_size(images.paths[row]) for row in looked_at))  # by the headers alone
        sizes = np.array(list(known), dtype=np.float64)  # (m, 2), width and height
        if len(sizes):
            median = [int(side) for side in np.median(sizes, axis=0)]
            alike = len(np.unique(sizes, axis=0)) == 1
            splits[-1] |= {"alike": alike, "looked_at": len(sizes), "median": median}
            charts[f"sides-{split}"] = {"of": "longer side in pixels", "values": sizes.max(axis=1).tolist()}
            shapes = np.clip(sizes[:, 0] / sizes[:, 1], 0.2, 5).round(3)
            charts[f"shapes-{split}"] = {"of": "width / height", "values": shapes.tolist()}
    noted = configuration.competition.work / LAST
    last = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else None
    if last is not None:
        last = {"limits": [], **last, "rate": last["images"] / max(last["seconds"], 1e-9)}
    return {"splits": splits, "charts": charts, "last": last}


def _csv(path: Path) -> list[list[str]]:
    """The rows after the header; none where there is no such file."""
    if not path.is_file():
        return []
    return pandas.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="replace").values.tolist()


def _groups(pairs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Equal files together, the largest group first; pairs: (id, the id it equals)."""
    groups: dict[str, list[str]] = {}
    for name, original in pairs:
        groups.setdefault(original, [original]).append(name)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def note_extraction(configuration: Configuration, report: ExtractionReport) -> None:
    """Keep what an extraction did, for the page; one that had nothing to do replaces nothing."""
    if report.images:
        keys = ("images", "seconds", "bytes_written", "limited", "limits")
        found = {key: getattr(report, key) for key in keys}
        found["date"] = f"{datetime.now():%Y-%m-%d %H:%M}"
        write_json(configuration.competition.work / LAST, found)
