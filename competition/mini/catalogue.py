"""Catalogue pictures: a product as a shop shows it, on white or with props."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from competition.mini.designs import around, draw_icon
from competition.mini.packaging import draw_packaging
from competition.mini.products import Product, colour

SIDE = 240  # pixels of every picture


def placed(
    layer: Image.Image,
    *,
    size: float,
    angle: float,
    centre: tuple[float, float],
    squeeze: float = 1.0,
    tilt: float = 0.0,
) -> Image.Image:
    """Return a `SIDE` x `SIDE` RGBA layer with `layer` scaled, turned and seen in perspective.

    `size`: pixels of its longer side; `angle`: degrees; `centre`: pixels; `squeeze`: width factor of an oblique view;
    `tilt`: how much wider the lower edge is than the upper (negative: narrower), as a share.
    """
    scale = size / max(layer.size)
    wide, tall = max(4, round(layer.width * scale * squeeze)), max(4, round(layer.height * scale))
    small = layer.resize((wide, tall), Image.Resampling.BICUBIC, reducing_gap=2.0)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    targets = []
    for x, y, sign in ((-0.5, -0.5, -1), (0.5, -0.5, -1), (0.5, 0.5, 1), (-0.5, 0.5, 1)):
        px, py = x * wide * (1 + sign * tilt / 2), y * tall
        targets.append((centre[0] + px * cosine - py * sine, centre[1] + px * sine + py * cosine))
    sources = ((0, 0), (wide, 0), (wide, tall), (0, tall))
    rows, values = [], []
    for (x, y), (u, v) in zip(targets, sources):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.asarray(rows, np.float64), np.asarray(values, np.float64))
    padded = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    moved = small.transform(
        (SIDE, SIDE), Image.Transform.PERSPECTIVE, tuple(coefficients), Image.Resampling.BICUBIC
    )
    padded.alpha_composite(moved)
    return padded


def cast_shadow(
    picture: Image.Image, layer: Image.Image, shift: tuple[float, float], blur: float, strength: float
) -> None:
    """Darken `picture` by the blurred outline of `layer`, moved by `shift` pixels."""
    outline = layer.getchannel("A").resize((SIDE // 2, SIDE // 2))
    moved = (1, 0, -shift[0] / 2, 0, 1, -shift[1] / 2)
    outline = outline.transform(outline.size, Image.Transform.AFFINE, moved)
    soft = outline.filter(ImageFilter.GaussianBlur(blur / 2)).resize((SIDE, SIDE))
    picture.paste((18, 16, 20), (0, 0), soft.point(lambda v: int(v * strength)))


def draw_props(picture: Image.Image, generator: np.random.Generator) -> None:
    """Decorate a catalogue ground: a pastel backdrop, a pedestal, leaves, petals, pebbles or drops."""
    hue = generator.random()
    draw = ImageDraw.Draw(picture)
    draw.rectangle(
        (0, 0, SIDE, SIDE), fill=colour(hue, generator.uniform(0.05, 0.25), generator.uniform(0.9, 0.99))
    )
    if generator.random() < 0.6:
        floor = SIDE * generator.uniform(0.6, 0.85)
        draw.rectangle(
            (0, floor, SIDE, SIDE),
            fill=colour(hue, generator.uniform(0.1, 0.3), generator.uniform(0.8, 0.92)),
        )
    else:
        r = SIDE * generator.uniform(0.25, 0.42)
        draw.ellipse(around(SIDE / 2, SIDE / 2, r), fill=colour(hue + 0.08, 0.2, 0.95))
    icon = str(generator.choice(("leaf", "flower", "drop", "circle")))
    fill = colour(
        0.3 if icon == "leaf" else generator.random(),
        generator.uniform(0.3, 0.6),
        generator.uniform(0.5, 0.9),
    )
    for _ in range(int(generator.integers(2, 7))):
        edge = generator.uniform(0, 0.28) * SIDE
        x = edge if generator.random() < 0.5 else SIDE - edge
        draw_icon(draw, icon, x, generator.uniform(0.1, 0.95) * SIDE, generator.uniform(10, 26), fill)


def draw_catalogue(product: Product, generator: np.random.Generator) -> Image.Image:
    """Draw one catalogue picture of the product: RGB, `SIDE` pixels square. Every choice comes from `generator`."""
    picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    props = generator.random() < 0.45
    if props:
        draw_props(picture, generator)
    yaw = generator.normal(0, 0.2)
    layer = draw_packaging(product, yaw=yaw, light=float(generator.choice((-1.0, 1.0))))
    size = SIDE * generator.uniform(0.66, 0.92) if not props else SIDE * generator.uniform(0.55, 0.78)
    size = min(size, 0.92 * SIDE)
    centre = (SIDE * (0.5 + generator.normal(0, 0.05)), SIDE * (0.5 + generator.normal(0, 0.025)))
    angle = 0.0 if generator.random() < 0.6 else generator.normal(0, 8)
    moved = placed(layer, size=size, angle=angle, centre=centre)
    shift = (generator.uniform(-6, 6), generator.uniform(2, 7))
    cast_shadow(picture, moved, shift, generator.uniform(3, 8), generator.uniform(0.1, 0.35))
    picture.paste(moved, (0, 0), moved)
    return picture
