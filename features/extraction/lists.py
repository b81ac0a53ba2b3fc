"""The CSV lists beside the dumps of a split: unreadable images and exact duplicates."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from competition.images import ImageSet
from features.dumps import read_sidecar
from features.dumps.disk import Disk
from features.extraction.duplicates import first_rows


def write_lists(dumps: Sequence[Path], folder: Path, images: ImageSet) -> list[tuple[str, str]]:
    """Write unreadable.csv (id, file, reason) and duplicates.csv (id, duplicate_of); returns (id, reason) of
    the images that some dump has no row for.
    """
    reasons: dict[int, str] = {}
    record: tuple[Path, int] | None = None
    seen: set[str] = set()
    for path in dumps:
        sidecar = read_sidecar(path)
        if sidecar["images"] in seen:
            continue
        seen.add(sidecar["images"])
        record = folder / sidecar["images"], len(sidecar["columns"])
        for entry in sidecar["unreadable"]:
            reasons.setdefault(entry["row"], entry["reason"])
    rows = [(images.ids[row], images.paths.texts[row], reason) for row, reason in sorted(reasons.items())]
    _write(folder / "unreadable.csv", ("id", "file", "reason"), rows)
    if record is not None:
        first = first_rows(*record)
        twins = (
            (images.ids[row], images.ids[int(original)])
            for row, original in enumerate(first)
            if original != row
        )
        _write(folder / "duplicates.csv", ("id", "duplicate_of"), twins)
    return [(image_id, reason) for image_id, _, reason in rows]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the CSV unless it holds exactly this already."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    data = stream.getvalue().encode("utf-8", "surrogateescape")
    if not path.exists() or path.read_bytes() != data:
        Disk().write_file(path, data)
