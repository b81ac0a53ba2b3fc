"""A page to look at beside the dumps of simulated photos: gallery images and the photos made of them."""

from __future__ import annotations

from pathlib import Path

from competition.images import ImageSet
from competition.simulated_split import photo_source
from features.decoding import Sizing
from features.dumps.disk import Disk
from features.extraction.decode_ahead import read_picture
from features.simulated_photos import contact_sheet

CONTACT_SHEET = "contact_sheet.jpg"
SHOWN_IMAGES, SHOWN_VIEWS = 16, 8
SIZINGS = (Sizing(256, "keep"),)


def write_contact_sheet(folder: Path, photos: ImageSet) -> Path:
    """Write <folder>/contact_sheet.jpg of some readable images, evenly spread; returns its path."""
    starts = [row for row, name in enumerate(photos.ids) if photo_source(name)[1] == 0]
    originals, views = [], []
    for start in starts[:: max(1, len(starts) // SHOWN_IMAGES)][:SHOWN_IMAGES]:
        end = min([row for row in starts if row > start][:1] + [len(photos), start + SHOWN_VIEWS])
        found = [read_picture(start, photos.paths[start], SIZINGS)] + [
            read_picture(row, photos.paths[row], SIZINGS, photos.view(row)) for row in range(start, end)
        ]
        if all(picture.pixels for picture in found):
            originals.append(found[0].pixels[0])
            views.append([picture.pixels[0] for picture in found[1:]])
    path = folder / CONTACT_SHEET
    Disk().write_file(path, contact_sheet(originals, views))
    return path
