"""The report's pictures: small JPEG files, made once, named by a digest and never after a path of the data."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from competition.atomic import write_bytes
from competition.images import ImageSet, Region
from competition.progress import Progress
from features.images.decode_ahead import read_picture
from features.images.simulated_photos import jpeg_bytes
from features.images.sizing import Sizing

SIDES = ((1_500, 400), (6_000, 224), (20_000, 128))  # up to so many pictures, the longer side in pixels
QUALITY = 78
GREY = (200, 200, 200)


class Pictures:
    """Pictures asked for by file; `make` writes them once all are known, since their number decides their size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: dict[str, tuple[str, int | Region | None]] = {}

    @property
    def side(self) -> int:
        """The longer side in pixels that keeps the folder small, as far as pictures are known."""
        return next((side for most, side in SIDES if len(self._asked) <= most), SIDES[-1][1])

    def name(self, images: ImageSet, row: int) -> str | None:
        """Return the stem of an image's picture; None once there are too many."""
        path, view = images.paths[row], images.view(row)
        try:
            found = os.stat(path)
            stamp = f"{found.st_size} {found.st_mtime_ns} {view} ".encode()
        except OSError:
            stamp = b"gone "
        stem = hashlib.sha256(stamp + os.fsencode(path)).hexdigest()[:16]
        if stem not in self._asked and len(self._asked) >= SIDES[-1][0]:
            return None
        self._asked[stem] = path, view
        return stem

    def make(self) -> Path:
        """Write the pictures that are not there, remove those nobody asks for; returns their folder's name."""
        place = self.folder / str(self.side)
        wanted = {place / f"{stem}.jpg": asked for stem, asked in self._asked.items()}
        kept = set(self.folder.glob("*/*.jpg"))
        sizing = Sizing(image_size=self.side, resize="keep")
        missing = [(file, path, view) for file, (path, view) in wanted.items() if file not in kept]
        with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
            made = pool.map(lambda each: write_bytes(each[0], _jpeg(each[1], each[2], sizing)), missing)
            for _ in Progress(made, total=len(missing), unit="image", desc="pictures"):
                pass
        for file in kept - wanted.keys():
            file.unlink()
        return Path(self.folder.name) / str(self.side)


def _jpeg(path: str, view: int | Region | None, sizing: Sizing) -> bytes:
    """The image as a JPEG, a grey square where it cannot be read."""
    from PIL import Image

    found = read_picture(0, path, (sizing,), view).pixels
    picture = Image.new("RGB", (sizing.image_size,) * 2, GREY) if found is None else Image.fromarray(found[0])
    return jpeg_bytes(picture, QUALITY)
