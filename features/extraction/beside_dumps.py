"""What lies beside the dumps of a split for people to look at: unreadable images, exact duplicates, simulated photos."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from competition.images import ImageSet
from competition.simulated_split import photo_source
from features.dumps import read_sidecar
from features.dumps.disk import Disk
from features.extraction.decode_ahead import read_picture
from features.extraction.duplicates import first_rows
from features.simulated_photos import contact_sheet
from features.sizing import Sizing

CONTACT_SHEET = "contact_sheet.jpg"
SHOWN_IMAGES, SHOWN_VIEWS = 16, 8
SIZINGS = (Sizing(256, "keep"),)


def write_lists(dumps: Sequence[Path], folder: Path, images: ImageSet) -> list[tuple[str, str]]:
    """Write unreadable.csv (id, file, reason) and duplicates.csv (id, duplicate_of).

    Returns (id, reason) of the images that some dump has no row for.
    """
    reasons: dict[int, str] = {}
    records: dict[str, int] = {}
    for path in dumps:
        sidecar = read_sidecar(path)
        if sidecar["images"] not in records:
            records[sidecar["images"]] = len(sidecar["columns"])
            for entry in sidecar["unreadable"]:
                reasons.setdefault(entry["row"], entry["reason"])
    rows = [(images.ids[row], images.paths[row], reason) for row, reason in sorted(reasons.items())]
    _write(folder / "unreadable.csv", ("id", "file", "reason"), rows)
    name, columns = list(records.items())[-1]
    first = first_rows(folder / name, columns).tolist()
    twins = [(images.ids[row], images.ids[original]) for row, original in enumerate(first) if original != row]
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


def write_contact_sheet(folder: Path, photos: ImageSet) -> Path:
    """Write <folder>/contact_sheet.jpg of some readable images, evenly spread; returns its path."""
    starts = [row for row, name in enumerate(photos.ids) if photo_source(name)[1] == 0]
    originals, views = [], []
    for start in starts[:: max(1, len(starts) // SHOWN_IMAGES)][:SHOWN_IMAGES]:
        end = min([row for row in starts if row > start][:1] + [len(photos), start + SHOWN_VIEWS])
        found = [read_picture(start, photos.paths[start], SIZINGS).pixels] + [
            read_picture(row, photos.paths[row], SIZINGS, photos.view(row)).pixels
            for row in range(start, end)
        ]
        readable = [pixels[0] for pixels in found if pixels]
        if len(readable) == len(found):
            originals.append(readable[0])
            views.append(readable[1:])
    path = folder / CONTACT_SHEET
    Disk().write_file(path, contact_sheet(originals, views))
    return path
