"""How an image gets its size: squashed or padded to a square, or kept in its proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from competition.configuration import SMALLEST_SIDE_PX, Backbone

FILTER = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Sizing:
    """How an image gets its size in pixels: `image_size`, `resize` and `max_size` of a [[backbone]].

    fill: RGB bytes beside a padded image, the network's mean so that they are 0 after normalisation.
    scale: factor on the resulting size; crop: the share of both sides, about the middle, that is left of the image
    before (test-time views).
    """

    image_size: int
    resize: str = "squash"
    max_size: int = 1024
    fill: tuple[int, int, int] = (128, 128, 128)
    scale: float = 1.0
    crop: float = 1.0

    @property
    def side_px(self) -> int:
        """The side of the square that an image is squashed or padded to."""
        return _scaled(self.image_size, self.scale)


def sizings(backbone: Backbone, mean: Sequence[float]) -> tuple[Sizing, ...]:
    """Return the sizes to decode an image to, one for each test-time scale and crop; mean: the network's RGB, 0 to 1."""
    red, green, blue = (min(255, max(0, round(255 * value))) for value in mean)
    how = backbone.image_size, backbone.resize, backbone.max_size, (red, green, blue)
    return tuple(Sizing(*how, scale, crop) for scale in backbone.scales for crop in backbone.crops)


def middle(width: int, height: int, crop: float) -> tuple[int, int, int, int]:
    """Return the box in the middle of an image that has `crop` of its sides: left, top, right, bottom in pixels."""
    wide, high = _scaled(width, crop), _scaled(height, crop)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _scaled(length: int, factor: float) -> int:
    return max(1, round(length * factor))


def fit_inside(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height scaled so that the longer one is `side`."""
    factor = side / max(width, height)
    return min(side, _scaled(width, factor)), min(side, _scaled(height, factor))


def wanted_size(width: int, height: int, sizing: Sizing) -> tuple[int, int]:
    """Return the width and height that an image gets, without what a padded one has beside it.

    "keep" never enlarges; with image_size 0 it is the original size, halved while its longer side is above max_size.
    """
    width, height = _scaled(width, sizing.crop), _scaled(height, sizing.crop)
    if sizing.resize == "squash":
        return sizing.side_px, sizing.side_px
    if sizing.resize == "pad":
        return fit_inside(width, height, sizing.side_px)
    if sizing.image_size:
        if max(width, height) > sizing.image_size:
            width, height = fit_inside(width, height, sizing.image_size)
    else:
        while max(width, height) > sizing.max_size:
            width, height = max(1, width // 2), max(1, height // 2)
    return _scaled(width, sizing.scale), _scaled(height, sizing.scale)


def sized(pixels: Image.Image, size: tuple[int, int], sizing: Sizing) -> np.ndarray:
    """Return the image in a size, uint8 (H, W, 3), on the canvas that the network needs.

    size: width and height wanted, by the whole image's size: a draft has another one, rounded.
    """
    if sizing.crop != 1:
        pixels = pixels.crop(middle(*pixels.size, sizing.crop))
    if pixels.size != size:
        pixels = pixels.resize(size, FILTER, reducing_gap=3.0)
    canvas = max(SMALLEST_SIDE_PX, size[0]), max(SMALLEST_SIDE_PX, size[1])
    if sizing.resize == "pad":
        canvas = sizing.side_px, sizing.side_px
    if size != canvas and sizing.resize != "squash":
        padded = Image.new("RGB", canvas, sizing.fill)
        padded.paste(pixels, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
        pixels = padded
    return np.asarray(pixels)
