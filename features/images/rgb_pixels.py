"""Pixels of every mode as RGB over white: transparency, palettes, 16-bit greys."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

BAND_PIXELS = 1_000_000


class Unreadable(Exception):
    """An image that takes part in nothing; its text is the reason, without the name of the file."""


def as_decoded(transparency: Any, depth: str) -> Any:
    """The transparent colour of a PNG as Pillow gives its pixels: 8 bits also where the file has 2, 4 or 16."""
    if depth.startswith("RGB;16"):
        return tuple(value >> 8 for value in transparency)
    return transparency * {"L;2": 85, "L;4": 17}.get(depth, 1)


def as_rgb(image: Image.Image) -> Image.Image:
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
