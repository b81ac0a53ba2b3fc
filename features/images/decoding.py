"""Image files to uint8 RGB arrays of the size a network wants; a file that cannot be decoded says why."""

from __future__ import annotations

import io
import re
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import ceil

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.Image import Transpose

from competition.images import Region
from features.images.rgb_pixels import Unreadable, as_decoded, as_rgb
from features.images.simulated_photos import simulated_photo
from features.images.sizing import FILTER, Sizing, fit_inside, sized, wanted_size

DECODER = 3  # raise when any file may decode to other pixels (here, in sizing.py, in rgb_pixels.py): part of every recipe
# MPO comes with JPEG
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
MAX_PIXELS = 120_000_000
MAX_DECODING_BYTES = 1_250_000_000  # of all images that are being decoded at one time
PIXEL_BYTES = {"WEBP": 24, "AVIF": 20, "JPEG2000": 28, "TIFF": 14}  # what decoding takes at most, measured
OTHER_PIXEL_BYTES = 10
COEFFICIENT_BYTES = 6  # a pixel of a JPEG of several scans, whatever the size that it is decoded to
MAX_SCANS = 100  # of a JPEG; programs write some ten
MAX_SCANNED_PIXELS = 2_000_000_000  # scans times pixels
MAX_DECODING_S = 30.0  # of processor time, so that a busy machine refuses nothing
MAX_TEXT_MB = 16
PHOTOGRAPHED = 1.5  # times the side wanted: what a photo is made of; it shows at least 0.6 of a side
ORIENTATION = 0x0112
ROTATIONS = (Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)  # counter-clockwise
ORIENTED = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
START_OF_SCAN = b"\xff\xda"
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")


@cache
def set_up_pillow() -> None:
    """At the first image: `decode` has a lower limit than Pillow's warning, and does without damaged EXIF blocks."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", message="Corrupt EXIF data")
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_MB << 20


def decode(data: bytes, sizings: tuple[Sizing, ...], view: int | Region | None = None) -> list[np.ndarray]:
    """Decode the first frame of an image file once and return it in each size asked for, uint8 (H, W, 3).

    data: the whole file; its name's extension plays no role. Transparent pixels lie over white, 16-bit greys
    are scaled to 8 bit, CMYK, palettes and greys become RGB, EXIF orientation is applied. JPEGs are decoded
    at a fraction of their size where that leaves at least twice the pixels wanted on each side.
    view: instead of the image, the photo simulated of it with this seed, or this region of it.
    All threads together decode what fits in MAX_DECODING_BYTES; an image waits for its room.
    Unreadable: empty, truncated or damaged files, formats not in FORMATS, more pixels, scans or seconds than
    the limits above.
    """
    if not data:
        raise Unreadable("empty file (0 bytes)")
    set_up_pillow()
    try:
        with Image.open(_TimedBytes(data), formats=FORMATS) as image:
            _refuse_bomb(image)
            scalable = image.format in ("JPEG", "MPO")
            orientation = _orientation(image) if scalable else 1
            wanted = _wanted(image.size, orientation, sizings)
            coefficients = _coefficient_bytes(image, data) if scalable else 0
            if scalable and not isinstance(view, Region):  # a box is in pixels of the file
                _draft(image, orientation in TURNED, wanted, min(sizing.crop for sizing in sizings))
            bytes_a_pixel = PIXEL_BYTES.get(image.format or "", OTHER_PIXEL_BYTES)
            with _room(coefficients + image.width * image.height * bytes_a_pixel):
                depth = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
                image.load()
                if not scalable:  # EXIF may follow the pixels of a PNG; Pillow turns a TIFF itself
                    orientation = 1 if image.format == "TIFF" else _orientation(image)
                    wanted = _wanted(image.size, orientation, sizings)
                if "transparency" in image.info:
                    image.info["transparency"] = as_decoded(image.info["transparency"], depth)
                pixels = as_rgb(image)
                if orientation != 1:
                    pixels = pixels.transpose(ORIENTED[orientation])
                if view is not None:
                    if isinstance(view, Region):
                        pixels = cut(pixels, view)
                    else:
                        pixels = _photographed(pixels, max(map(max, wanted)), view)
                    wanted = _wanted(pixels.size, 1, sizings)
                return [sized(pixels, size, sizing) for size, sizing in zip(wanted, sizings)]
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(f"refused by its declared size: {error}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError … on damage
        reason = " ".join(str(error).split()) or type(error).__name__
        if "MAX_TEXT" in reason:
            raise Unreadable(f"refused: more than {MAX_TEXT_MB} MB of text or colour profile") from None
        raise Unreadable(f"damaged: {reason}") from None


class _TimedBytes(io.BytesIO):
    """A file in memory that stops giving bytes when the thread that made it has decoded for too long."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.until = time.thread_time() + MAX_DECODING_S

    def read(self, size: int | None = -1) -> bytes:
        if time.thread_time() > self.until:
            raise Unreadable(f"refused: decoding took more than {MAX_DECODING_S:.0f} seconds")
        return super().read(size)


class Budget:
    """Bytes that all threads together may use; who asks for more than is left waits."""

    def __init__(self, size_bytes: int) -> None:
        self.left, self.changed = size_bytes, threading.Condition()

    @contextmanager
    def room(self, size_bytes: int) -> Iterator[None]:
        """Hold `size_bytes`, at most the whole budget, within the context."""
        with self.changed:
            self.changed.wait_for(lambda: size_bytes <= self.left)
            self.left -= size_bytes
        try:
            yield
        finally:
            with self.changed:
                self.left += size_bytes
                self.changed.notify_all()


DECODING = Budget(MAX_DECODING_BYTES)


def _room(cost_bytes: int):
    if cost_bytes > MAX_DECODING_BYTES:
        raise Unreadable(
            f"refused by its declared size: decoding would take {cost_bytes / 1e9:.1f} GB, more than "
            f"{MAX_DECODING_BYTES / 1e9:.2f} GB"
        )
    return DECODING.room(cost_bytes)


def _wanted(size: tuple[int, int], orientation: int, sizings: tuple[Sizing, ...]) -> list[tuple[int, int]]:
    width, height = size[::-1] if orientation in TURNED else size
    return [wanted_size(width, height, sizing) for sizing in sizings]


def cut(pixels: Image.Image, region: Region) -> Image.Image:
    """The region of an image, edges rounded to whole pixels; Unreadable where the box is not inside it."""
    if turns := region.turns % 4:
        pixels = pixels.transpose(ROTATIONS[turns - 1])
    if region.box is None:
        return pixels
    pixels_box = region.pixels(*pixels.size)
    if pixels_box is None:
        raise Unreadable(f"its box {region.box} is not inside its {pixels.width} × {pixels.height} pixels")
    return pixels.crop(pixels_box)


def _photographed(pixels: Image.Image, side_px: int, seed: int) -> Image.Image:
    """The photo simulated of an image, from about as many pixels as a photo wanted at `side_px` needs."""
    most = round(PHOTOGRAPHED * side_px)
    if max(pixels.size) > most:
        pixels = pixels.resize(fit_inside(*pixels.size, most), FILTER, reducing_gap=3.0)
    return Image.fromarray(simulated_photo(np.asarray(pixels), seed))


def _refuse_bomb(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(
            f"refused by its declared size: {width} × {height} pixels, more than "
            f"{MAX_PIXELS // 1_000_000} million"
        )
    if not width or not height:
        raise Unreadable(f"declares no pixels: {width} × {height}")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block leaves the pixels as they are
        return 1
    return value if value in range(1, 9) else 1


def _draft(image: Image.Image, turned: bool, wanted: list[tuple[int, int]], crop: float) -> None:
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8 where what is left is at least twice every (width, height) wanted.

    crop: the smallest share of the sides that one of them is of.
    """
    width, height = (2 * max(size[side] for size in wanted) for side in (0, 1))
    size = ceil(width / crop), ceil(height / crop)
    image.draft(None, size[::-1] if turned else size)


def _coefficient_bytes(image: Image.Image, data: bytes) -> int:
    """What a JPEG of several scans takes beside its pixels; Unreadable where it has too many."""
    pixels, scans = image.width * image.height, data.count(START_OF_SCAN)
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    if scans > most and (scans := _scans(data)) > most:  # metadata may hold the marker, too
        raise Unreadable(f"refused: a JPEG of {scans} scans, more than {most} at its size")
    setattr(image, "decodermaxblock", 1 << 14)  # the time is looked at between blocks
    return COEFFICIENT_BYTES * pixels if scans > 1 else 0


def _scans(data: bytes) -> int:
    """The scans of the first JPEG in `data`, without those of thumbnails in its metadata."""
    scans, place = 0, 2
    while (found := MARKER.search(data, place)) is not None:
        marker, place = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        scans += marker == START_OF_SCAN[1]
        place += int.from_bytes(data[place : place + 2])
    return scans
