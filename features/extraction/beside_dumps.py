"""What people look at beside the dumps of a split: unreadable images, duplicates, simulated photos."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from competition.simulated_split import photo_source
from features.dumps import Dump, read_sidecar
from features.dumps.disk import Disk
from features.dumps.dump_writer import record_type
from features.dumps.layout import configured_targets, dumps_folder
from features.extraction.dump_group import IMAGE
from features.images.decode_ahead import read_picture
from features.images.simulated_photos import contact_sheet
from features.images.sizing import Sizing

CONTACT_SHEET = "contact_sheet.jpg"
SHOWN_IMAGES, SHOWN_VIEWS = 16, 8
SIZINGS = (Sizing(256, "keep"),)
BLOCK_ROWS = 2048


def write_lists(dumps: Sequence[Path], folder: Path, images: ImageSet) -> list[tuple[str, str]]:
    """Write unreadable.csv (id, file, reason) and duplicates.csv (id, duplicate_of).

    Returns (id, reason) of the images that some dump has no row for.
    """
    reasons: dict[int, str] = {}
    for path in dumps:
        sidecar = read_sidecar(path)
        for entry in sidecar["unreadable"]:
            reasons.setdefault(entry["row"], entry["reason"])
    rows = [(images.ids[row], images.paths[row], reason) for row, reason in sorted(reasons.items())]
    _write(folder / "unreadable.csv", ("id", "file", "reason"), rows)
    first = first_rows(folder, sidecar).tolist()
    twins = [(images.ids[row], images.ids[original]) for row, original in enumerate(first) if original != row]
    _write(folder / "duplicates.csv", ("id", "duplicate_of"), twins)
    return [(image_id, reason) for image_id, _, reason in rows]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the CSV unless it holds exactly this already."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    data = stream.getvalue().encode("utf-8", "surrogateescape")
    if not path.exists() or path.read_bytes() != data:
        Disk().write_file(path, data)


def write_contact_sheet(folder: Path, photos: ImageSet) -> None:
    """Write <folder>/contact_sheet.jpg of some readable images, evenly spread."""
    starts = [row for row, name in enumerate(photos.ids) if photo_source(name)[1] == 0]
    spans = list(zip(starts, [*starts[1:], len(photos)]))
    originals, views = [], []
    for start, end in spans[:: max(1, len(spans) // SHOWN_IMAGES)][:SHOWN_IMAGES]:
        found = [read_picture(start, photos.paths[start], SIZINGS).pixels]
        for row in range(start, min(end, start + SHOWN_VIEWS)):
            found.append(read_picture(row, photos.paths[row], SIZINGS, photos.view(row)).pixels)
        readable = [pixels[0] for pixels in found if pixels]
        if len(readable) == len(found):
            originals.append(readable[0])
            views.append(readable[1:])
    Disk().write_file(folder / CONTACT_SHEET, contact_sheet(originals, views))


def first_rows(folder: Path, sidecar: Mapping) -> np.ndarray:
    """(n,) int64: the first row with the same content as each row; a file that could not be opened equals no other.

    sidecar: of a dump in `folder` with the record of these images.
    """
    records = np.memmap(
        folder / sidecar["images"], dtype=record_type(len(sidecar["columns"]), IMAGE), mode="r"
    )
    hashes = np.ascontiguousarray(records["sha256"]).view("V32")[:, 0]
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    rows = first[group].astype(np.int64)
    absent = records["size_bytes"] < 0
    rows[absent] = np.flatnonzero(absent)
    return rows


def exact_duplicates(configuration: Configuration) -> np.ndarray:
    """(n,) int64: for each gallery image the first row with the same file content, which may be its own.

    Top7Error: nothing has been extracted yet.
    """
    folder = dumps_folder(configuration, "gallery")
    for backbone in configuration.backbones:
        for target in configured_targets(configuration, backbone, folder):
            if target.path.exists():
                return first_rows(folder, read_sidecar(target.path))
    raise Top7Error(f"{folder}: no dump that would tell the duplicates: run ./run.sh extract")


def near_duplicates(dump: Dump, threshold: float = 0.98) -> Iterator[tuple[int, int, float]]:
    """Yield (row, later row, cosine) of the pairs of a dump at or above `threshold`, by row.

    Unreadable rows never. Every pair is compared, block by block: time grows with the square of the rows, memory does
    not grow.
    """
    rows = len(dump.descriptors)
    for start in range(0, rows, BLOCK_ROWS):
        block = np.asarray(dump.descriptors[start : start + BLOCK_ROWS], dtype=np.float32)
        found: list[tuple[int, int, float]] = []
        for other in range(start, rows, BLOCK_ROWS):
            others = np.asarray(dump.descriptors[other : other + BLOCK_ROWS], dtype=np.float32)
            similarity = block @ others.T
            for a, b in zip(*np.nonzero(similarity >= threshold)):
                first, second = start + int(a), other + int(b)
                if first < second and not (dump.unreadable[first] or dump.unreadable[second]):
                    found.append((first, second, float(similarity[a, b])))
        yield from sorted(found)
