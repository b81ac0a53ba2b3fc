"""User photos: a product on a cluttered ground or in a hand, seen obliquely, badly lit, blurred and partly hidden."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from competition.mini.catalogue import SIDE, lay, placed
from competition.mini.packaging import draw_packaging
from competition.mini.products import Product, draw_product, random_colour
from competition.mini.scenes import draw_clutter, draw_ground, draw_hand, noise


def lighting(pixels: np.ndarray, rng: Generator) -> np.ndarray:
    """Return the picture (SIDE, SIDE, 3) float32 under another light.

    Colour temperature, exposure, contrast, a fall-off across the picture, a soft shadow and now and then a glare.
    """
    gains = np.exp(rng.normal(0, (0.09, 0.03, 0.11))).astype(np.float32)
    pixels = pixels * gains * float(np.exp(rng.normal(-0.05, 0.2)))
    pixels = (pixels - 128) * rng.uniform(0.72, 1.12) + 128 + rng.normal(0, 8)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.cos(turn) * x + np.sin(turn) * y
    light = 1 + rng.uniform(0, 0.3) * slope - rng.uniform(0, 0.18) * (x * x + y * y)
    if rng.random() < 0.5:
        edge = slope + 0.25 * noise(rng, 4, 4) - rng.uniform(-0.5, 0.6)
        light = light * (1 - rng.uniform(0.15, 0.45) / (1 + np.exp(-10 * edge)))
    pixels = pixels * light[..., None]
    if rng.random() < 0.3:
        cx, cy = rng.uniform(-0.5, 0.5, 2)
        spread = rng.uniform(0.01, 0.05)
        glare = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / spread) * rng.uniform(0.3, 0.8)
        pixels = pixels + glare[..., None] * (255 - pixels)
    return pixels


def blurred(picture: Image.Image, rng: Generator) -> Image.Image:
    """Return the picture out of focus, shaken, or (a third of the time) sharp."""
    kind = rng.choice(3, p=(0.35, 0.4, 0.25))
    if kind == 1:
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.8)))
    if kind == 2:
        turn, length = rng.uniform(0, np.pi), rng.uniform(2, 6)
        total = np.zeros((SIDE, SIDE, 3), np.float32)
        for t in length * np.linspace(-0.5, 0.5, 5):
            shift = (1, 0, t * np.cos(turn), 0, 1, t * np.sin(turn))
            moved = picture.transform(picture.size, Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR)
            total += np.asarray(moved)
        return Image.fromarray((total / 5).astype(np.uint8), "RGB")
    return picture


def draw_photo(product: Product, rng: Generator) -> tuple[Image.Image, int]:
    """Draw one user photo of the product.

    Returns an RGB picture, `SIDE` pixels square, and the JPEG quality to save it with. Every choice comes from
    `rng`.
    """
    picture = draw_ground(rng)
    draw_clutter(picture, rng, int(rng.integers(1, 6)))
    if rng.random() < 0.45:  # something else of the shop beside it
        other = draw_packaging(draw_product(rng), rng.normal(0, 0.5), 1.0)
        beside = (SIDE * float(rng.choice((0.08, 0.92))), SIDE * rng.uniform(0.2, 0.8))
        wide = SIDE * rng.uniform(0.4, 0.65)
        lay(picture, placed(other, wide, rng.normal(0, 25), beside), (4, 5), 5, 0.4)
    light = float(rng.choice((-1.0, 1.0)))
    packaging = draw_packaging(product, rng.normal(0, 0.3), light)
    size = SIDE * rng.uniform(0.5, 0.88)
    centre = (SIDE * (0.5 + rng.normal(0, 0.06)), SIDE * (0.5 + rng.normal(0, 0.05)))
    held = rng.random() < 0.4
    angle = rng.normal(0, 10 if held else 18)
    layer = placed(packaging, size, angle, centre, rng.uniform(0.82, 1.05), rng.normal(0, 0.14))
    reach = 0.5 * size * min(1.0, packaging.width / max(packaging.size))
    if held:
        behind, front = draw_hand(rng, centre, reach)
        lay(picture, behind, (-6 * light, 8), 8, 0.3)
        picture.paste(layer, (0, 0), layer)
        lay(picture, front, (-2 * light, 3), 3, 0.4)
    else:
        shift = (-light * rng.uniform(3, 14), rng.uniform(3, 12))
        lay(picture, layer, shift, rng.uniform(3, 9), rng.uniform(0.3, 0.7))
        if rng.random() < 0.25:  # a corner of something lies over it
            x = centre[0] + float(rng.choice((-1, 1))) * reach
            cover = Image.new("RGBA", (48, 30), (*random_colour(rng), 255))
            wide, angle = rng.uniform(45, 90), rng.uniform(0, 180)
            over = placed(cover, wide, angle, (x, centre[1] + rng.normal(0, 0.25) * size))
            lay(picture, over, (3, 4), 4, 0.4)
    pixels = lighting(np.asarray(blurred(picture, rng)).astype(np.float32), rng)
    pixels = pixels + rng.standard_normal((SIDE, SIDE, 1), np.float32) * rng.uniform(0, 7)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB"), int(rng.integers(35, 85))
