"""Image files to uint8 RGB arrays of the size a network wants; a file that cannot be decoded says why."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from competition.errors import ConfigurationError, nearest

DECODER = 2  # raise when any file may decode to other pixels: it is part of every recipe
MAX_PIXELS = 120_000_000
SMALLEST_SIDE_PX = 32
FILTER = Image.Resampling.BILINEAR
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

# `decode` has a lower limit of its own, and does without damaged EXIF blocks
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")


def _formats() -> tuple[str, ...]:
    """Every raster format of Pillow: EPS is a program, which it would have Ghostscript run."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


FORMATS = _formats()


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


def decode(data: bytes, sizings: tuple[Sizing, ...]) -> list[np.ndarray]:
    """Decode the first frame of an image file once and return it in every size asked for, uint8 (H, W, 3)
    each.

    data: the whole file; its name's extension plays no role. Transparent pixels lie over white, 16-bit greys
    are scaled to 8 bit, CMYK, palettes and greys become RGB, EXIF orientation is applied. JPEGs are decoded
    at a fraction of their size where that leaves at least twice the pixels wanted on each side.
    Unreadable: empty, truncated or damaged files, unknown formats, more than MAX_PIXELS declared pixels.
    """
    if not data:
        raise Unreadable("empty file (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(image)
            orientation = _orientation(image)
            size = image.size[::-1] if orientation in TURNED else image.size
            wanted = [RESIZES[sizing.resize](*size, sizing) for sizing in sizings]
            _draft(image, orientation in TURNED, wanted)
            image.load()
            pixels = _rgb(image)
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable("not an image in a format that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise Unreadable(f"refused by its declared size: {error}") from None
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError … on damaged files
        raise Unreadable(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from None
    if orientation != 1:
        pixels = _turned(pixels, orientation)
    return [_sized(pixels, size, sizing) for size, sizing in zip(wanted, sizings)]


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
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8 where every (width, height) wanted is at most half of what
    is left.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    size = 2 * max(size[0] for size in wanted), 2 * max(size[1] for size in wanted)
    image.draft(None, size[::-1] if turned else size)


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


def _rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if mode == "F":
        raise Unreadable("floating-point pixels, which define no white")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        alpha = image.convert("RGBA")
        white = Image.new("RGBA", alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, alpha).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _from_16_bit(values: np.ndarray) -> Image.Image:
    """Greys of 0 … 65535 to 8-bit RGB, rounded; wider integers have no defined white."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise Unreadable(f"integer pixels from {low} to {high}, expected 0 to 65535")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey, "L").convert("RGB")


def _sized(pixels: Image.Image, size: tuple[int, int], sizing: Sizing) -> np.ndarray:
    """size: width and height wanted, by the whole image's size: a draft has another one, rounded."""
    if pixels.size != size:
        pixels = pixels.resize(size, FILTER, reducing_gap=3.0)
    canvas = (
        (_square_px(sizing),) * 2 if sizing.resize == "pad" else tuple(max(SMALLEST_SIDE_PX, n) for n in size)
    )
    if size != canvas and sizing.resize != "squash":
        padded = Image.new("RGB", canvas, sizing.fill)
        padded.paste(pixels, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
        pixels = padded
    return np.asarray(pixels)
