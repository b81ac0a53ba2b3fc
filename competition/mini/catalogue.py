"""Catalogue pictures: a product as a shop shows it, on white or with props."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from competition.mini.designs import Point, around, draw_icon
from competition.mini.packaging import draw_packaging
from competition.mini.products import Product, colour, pick

SIDE = 240  # pixels of every picture


def placed(
    layer: Image.Image, size: float, angle: float, centre: Point, squeeze: float = 1.0, tilt: float = 0.0
) -> Image.Image:
    """Return a `SIDE` x `SIDE` RGBA layer with `layer` scaled, turned and seen in perspective.

    `size`: pixels of its longer side; `angle`: degrees; `centre`: pixels; `squeeze`: width factor of an oblique view;
    `tilt`: how much wider the lower edge is than the upper (negative: narrower), as a share.
    """
    scale = size / max(layer.size)
    wide, tall = max(4, round(layer.width * scale * squeeze)), max(4, round(layer.height * scale))
    small = layer.resize((wide, tall), Image.Resampling.BICUBIC, reducing_gap=2.0)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rows, values = [], []
    for u, v in ((0, 0), (wide, 0), (wide, tall), (0, tall)):  # a corner, and where it goes
        px, py = (u - wide / 2) * (1 + (tilt if v else -tilt) / 2), v - tall / 2
        x, y = centre[0] + px * cosine - py * sine, centre[1] + px * sine + py * cosine
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    perspective = np.linalg.solve(np.asarray(rows, np.float64), np.asarray(values, np.float64)).tolist()
    moved = small.transform((SIDE, SIDE), Image.Transform.PERSPECTIVE, perspective, Image.Resampling.BICUBIC)
    return Image.alpha_composite(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)), moved)


def lay(picture: Image.Image, layer: Image.Image, shift: Point, blur: float, strength: float) -> None:
    """Lay `layer` over `picture`, which its blurred outline, moved by `shift` pixels, darkens."""
    outline = layer.getchannel("A").resize((SIDE // 2, SIDE // 2))
    moved = (1, 0, -shift[0] / 2, 0, 1, -shift[1] / 2)
    outline = outline.transform(outline.size, Image.Transform.AFFINE, moved)
    soft = outline.filter(ImageFilter.GaussianBlur(blur / 2)).resize((SIDE, SIDE))
    picture.paste((18, 16, 20), (0, 0), soft.point(lambda v: int(v * strength)))
    picture.paste(layer, (0, 0), layer)


def draw_props(picture: Image.Image, rng: Generator) -> None:
    """Decorate a catalogue ground: a pastel backdrop, a pedestal, leaves, petals, pebbles or drops."""
    hue = rng.random()
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, SIDE, SIDE), fill=colour(hue, rng.uniform(0.05, 0.25), rng.uniform(0.9, 0.99)))
    if rng.random() < 0.6:
        floor = SIDE * rng.uniform(0.6, 0.85)
        fill = colour(hue, rng.uniform(0.1, 0.3), rng.uniform(0.8, 0.92))
        draw.rectangle((0, floor, SIDE, SIDE), fill=fill)
    else:
        r = SIDE * rng.uniform(0.25, 0.42)
        draw.ellipse(around(SIDE / 2, SIDE / 2, r), fill=colour(hue + 0.08, 0.2, 0.95))
    icon = pick(rng, ("leaf", "flower", "drop", "circle"))
    fill = colour(0.3 if icon == "leaf" else rng.random(), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.9))
    for _ in range(int(rng.integers(2, 7))):
        edge = rng.uniform(0, 0.28) * SIDE
        x = edge if rng.random() < 0.5 else SIDE - edge
        draw_icon(draw, icon, x, rng.uniform(0.1, 0.95) * SIDE, rng.uniform(10, 26), fill)


def draw_catalogue(product: Product, rng: Generator) -> Image.Image:
    """Draw one catalogue picture of the product: RGB, `SIDE` pixels square. Every choice comes from `rng`."""
    picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    props = rng.random() < 0.45
    if props:
        draw_props(picture, rng)
    layer = draw_packaging(product, rng.normal(0, 0.2), float(rng.choice((-1.0, 1.0))))
    size = SIDE * (rng.uniform(0.55, 0.78) if props else rng.uniform(0.66, 0.92))
    centre = (SIDE * (0.5 + rng.normal(0, 0.05)), SIDE * (0.5 + rng.normal(0, 0.025)))
    angle = 0.0 if rng.random() < 0.6 else rng.normal(0, 8)
    shift = (rng.uniform(-6, 6), rng.uniform(2, 7))
    lay(picture, placed(layer, size, angle, centre), shift, rng.uniform(3, 8), rng.uniform(0.1, 0.35))
    return picture
