"""Image files to uint8 RGB arrays of the size a network wants; a file that cannot be decoded says why."""

from __future__ import annotations

import io
import re
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from competition.configuration import SMALLEST_SIDE_PX
from competition.errors import ConfigurationError, nearest
from competition.images import Region

DECODER = 3  # raise when any file may decode to other pixels: it is part of every recipe
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "QOI",
)  # MPO comes with JPEG
MAX_PIXELS = 120_000_000
MAX_DECODING_BYTES = 1_250_000_000  # of all images that are being decoded at one time
PIXEL_BYTES = {"WEBP": 24, "AVIF": 20, "JPEG2000": 28, "TIFF": 14}  # what decoding takes at most, measured
OTHER_PIXEL_BYTES = 10
COEFFICIENT_BYTES = 6  # a pixel of a JPEG of several scans, whatever the size that it is decoded to
MAX_SCANS = 100  # of a JPEG; programs write some ten
MAX_SCANNED_PIXELS = 2_000_000_000  # scans times pixels
MAX_DECODING_S = 30.0  # of processor time, so that a busy machine refuses nothing
MAX_TEXT_MB = 16
BAND_PIXELS = 1_000_000
PHOTOGRAPHED = 1.5  # times the side wanted: what a photo is made of; it shows at least 0.6 of a side
FILTER = Image.Resampling.BILINEAR
ORIENTATION = 0x0112
QUARTERS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}  # counter-clockwise
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
START_OF_SCAN = b"\xff\xda"
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")


class Unreadable(Exception):
    """An image that takes part in nothing; its text is the reason, without the name of the file."""


@dataclass(frozen=True)
class Sizing:
    """How an image gets its size in pixels: `image_size`, `resize` and `max_size` of a [[backbone]].

    fill: RGB bytes beside a padded image, the network's mean so that they are 0 after normalisation.
    scale: factor on the resulting size (a test-time view).
    """

    image_size: int
    resize: str = "squash"
    max_size: int = 1024
    fill: tuple[int, int, int] = (128, 128, 128)
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ConfigurationError(f"unknown resize {self.resize!r}; {nearest(self.resize, RESIZES)}")


def _scaled(length: int, factor: float) -> int:
    return max(1, round(length * factor))


def _square_px(sizing: Sizing) -> int:
    return _scaled(sizing.image_size, sizing.scale)


def _fit_inside(width: int, height: int, side: int) -> tuple[int, int]:
    factor = side / max(width, height)
    return min(side, _scaled(width, factor)), min(side, _scaled(height, factor))


def _squashed(width: int, height: int, sizing: Sizing) -> tuple[int, int]:
    return _square_px(sizing), _square_px(sizing)


def _padded(width: int, height: int, sizing: Sizing) -> tuple[int, int]:
    return _fit_inside(width, height, _square_px(sizing))


def _kept(width: int, height: int, sizing: Sizing) -> tuple[int, int]:
    """Never enlarges; with image_size 0 the original size, halved while its longer side is above max_size."""
    if sizing.image_size:
        if max(width, height) > sizing.image_size:
            width, height = _fit_inside(width, height, sizing.image_size)
    else:
        while max(width, height) > sizing.max_size:
            width, height = max(1, width // 2), max(1, height // 2)
    if sizing.scale != 1:
        width, height = _scaled(width, sizing.scale), _scaled(height, sizing.scale)
    return width, height


RESIZES = {"squash": _squashed, "pad": _padded, "keep": _kept}


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
            if not isinstance(view, Region):  # a box is in pixels of the file
                _draft(image, orientation in TURNED, wanted)
            with _room(coefficients + _decoding_bytes(image)):
                depth = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""
                image.load()
                if not scalable:  # EXIF may follow the pixels of a PNG; Pillow turns a TIFF itself
                    orientation = 1 if image.format == "TIFF" else _orientation(image)
                    wanted = _wanted(image.size, orientation, sizings)
                if "transparency" in image.info:
                    image.info["transparency"] = _as_decoded(image.info["transparency"], depth)
                pixels = _rgb(image)
                if orientation != 1:
                    pixels = _turned(pixels, orientation)
                if view is not None:
                    if isinstance(view, Region):
                        pixels = cut(pixels, view)
                    else:
                        pixels = _photographed(pixels, max(map(max, wanted)), view)
                    wanted = _wanted(pixels.size, 1, sizings)
                return [_sized(pixels, size, sizing) for size, sizing in zip(wanted, sizings)]
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


def _decoding_bytes(image: Image.Image) -> int:
    return image.width * image.height * PIXEL_BYTES.get(image.format or "", OTHER_PIXEL_BYTES)


def _wanted(size: tuple[int, int], orientation: int, sizings: tuple[Sizing, ...]) -> list[tuple[int, int]]:
    width, height = size[::-1] if orientation in TURNED else size
    return [RESIZES[sizing.resize](width, height, sizing) for sizing in sizings]


def cut(pixels: Image.Image, region: Region) -> Image.Image:
    """The region of an image, edges rounded to whole pixels; Unreadable where the box is not inside it."""
    if region.turns % 4:
        pixels = pixels.transpose(QUARTERS[region.turns % 4])
    if region.box is None:
        return pixels
    pixels_box = region.pixels(*pixels.size)
    if pixels_box is None:
        raise Unreadable(f"its box {region.box} is not inside its {pixels.width} × {pixels.height} pixels")
    return pixels.crop(pixels_box)


def _photographed(pixels: Image.Image, side_px: int, seed: int) -> Image.Image:
    """The photo simulated of an image, from about as many pixels as a photo wanted at `side_px` needs."""
    from features.simulated_photos import simulated_photo

    most = round(PHOTOGRAPHED * side_px)
    if max(pixels.size) > most:
        pixels = pixels.resize(_fit_inside(*pixels.size, most), FILTER, reducing_gap=3.0)
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


def _draft(image: Image.Image, turned: bool, wanted: list[tuple[int, int]]) -> None:
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8 where what is left is at least twice every (width, height) wanted."""
    if image.format not in ("JPEG", "MPO"):
        return
    size = 2 * max(size[0] for size in wanted), 2 * max(size[1] for size in wanted)
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


def _turned(pixels: Image.Image, orientation: int) -> Image.Image:
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    return pixels.transpose(method)


def _as_decoded(transparency: Any, depth: str) -> Any:
    """The transparent colour of a PNG as Pillow gives its pixels: 8 bits also where the file has 2, 4 or 16."""
    if depth.startswith("RGB;16"):
        return tuple(value >> 8 for value in transparency)
    return transparency * {"L;2": 85, "L;4": 17}.get(depth, 1)


def _rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB over white; a large one in bands, since what lies between takes several times its memory."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        return _band_as_rgb(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_band_as_rgb(band), (0, top))
    return whole


def _band_as_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I"):
        return _from_16_bit(np.asarray(image), image.info.get("transparency"))
    if mode == "F":
        raise Unreadable("floating-point pixels, which define no white")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        alpha = image.convert("RGBA")
        white = Image.new("RGBA", alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, alpha).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(values: np.ndarray, transparent: int | None) -> Image.Image:
    """Greys of 0 … 65535 to 8-bit RGB, rounded, `transparent` to white; wider integers have no defined white."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Unreadable(f"integer pixels from {low} to {high}, expected 0 to 65535")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey, "L").convert("RGB")


def _sized(pixels: Image.Image, size: tuple[int, int], sizing: Sizing) -> np.ndarray:
    """size: width and height wanted, by the whole image's size: a draft has another one, rounded."""
    if pixels.size != size:
        pixels = pixels.resize(size, FILTER, reducing_gap=3.0)
    canvas = max(SMALLEST_SIDE_PX, size[0]), max(SMALLEST_SIDE_PX, size[1])
    if sizing.resize == "pad":
        canvas = _square_px(sizing), _square_px(sizing)
    if size != canvas and sizing.resize != "squash":
        padded = Image.new("RGB", canvas, sizing.fill)
        padded.paste(pixels, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
        pixels = padded
    return np.asarray(pixels)
