"""Where user photos are taken: table tops, cloths and tiles, things lying about, and the hand that holds the product."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from competition.mini.catalogue import SIDE
from competition.mini.designs import around, draw_pattern
from competition.mini.products import PATTERNS, Colour, colour, random_colour, shifted


def noise(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise in about [-1, 1], (SIDE, SIDE) float32, with that many cells down and across."""
    cells = generator.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draw_ground(generator: np.random.Generator) -> Image.Image:
    """Draw a surface: wood, stone, cloth, tiles or a plain wall. Returns RGB, `SIDE` square."""
    kind = generator.choice(("wood", "stone", "cloth", "tiles", "wall"))
    if kind == "wood":
        base = colour(
            generator.uniform(0.05, 0.11), generator.uniform(0.2, 0.6), generator.uniform(0.3, 0.85)
        )
        texture = 16 * noise(generator, 60, 4) + 10 * noise(generator, 12, 3)
    elif kind == "stone":
        base = colour(generator.random(), generator.uniform(0, 0.15), generator.uniform(0.4, 0.95))
        texture = 12 * noise(generator, 6, 6) + 10 * noise(generator, 24, 24) + 7 * noise(generator, 90, 90)
    else:
        base = random_colour(generator)
        texture = 6 * noise(generator, 4, 4) + (7 * noise(generator, 120, 120) if kind == "cloth" else 0)
    if generator.random() < 0.5:
        texture = texture.T
    pixels = np.clip(np.asarray(base, np.float32) + texture[..., None], 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels, "RGB")
    draw = ImageDraw.Draw(picture)
    if kind == "tiles":
        step, grout = generator.uniform(40, 90), shifted(base, 0, 0, -0.25)
        for k in range(int(SIDE / step) + 1):
            draw.line((0, k * step, SIDE, k * step), fill=grout, width=3)
            draw.line((k * step, 0, k * step, SIDE), fill=grout, width=3)
    elif kind == "cloth" and generator.random() < 0.7:
        pattern, scale = str(generator.choice(PATTERNS)), generator.uniform(0.8, 2.5)
        fill = shifted(base, 0, 0.05, generator.uniform(-0.25, 0.25))
        draw_pattern(draw, pattern, (0, 0, SIDE, SIDE), scale, fill)
    return picture


def draw_clutter(picture: Image.Image, generator: np.random.Generator, count: int) -> None:
    """Lay `count` things about: books, cups, pens, cables, phones, keys, fruit; some run out of the picture."""
    draw = ImageDraw.Draw(picture)
    for _ in range(count):
        x, y = generator.uniform(-0.1, 1.1, 2) * SIDE
        size = generator.uniform(0.1, 0.3) * SIDE
        fill = random_colour(generator)
        edge = shifted(fill, 0, 0, -0.2)
        kind = int(generator.integers(6))
        turn = generator.uniform(0, math.pi)
        along, across = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
        if kind in (0, 1):  # a book, a phone
            long, wide = (size, 0.7 * size) if kind == 0 else (0.8 * size, 0.4 * size)
            corners = [
                tuple(at + sx * long * u + sy * wide * v for at, u, v in zip((x, y), along, across))
                for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            draw.polygon(corners, fill=fill, outline=edge)
            draw.line((corners[0], corners[3]), fill=edge, width=4)
        elif kind == 2:  # a cup from above
            draw.ellipse(around(x, y, size / 2), fill=fill, outline=edge, width=3)
            draw.ellipse(around(x, y, size / 3), fill=colour(0.07, 0.6, 0.25))
        elif kind == 3:  # a pen
            draw.line(
                (x - size * along[0], y - size * along[1], x + size * along[0], y + size * along[1]),
                fill=fill,
                width=7,
            )
        elif kind == 4:  # a cable
            t = np.linspace(0, 1, 30)
            draw.line(
                [(x + size * 4 * (k - 0.5), y + size * math.sin(6 * k + turn)) for k in t], fill=edge, width=3
            )
        else:  # fruit, a ball
            draw.ellipse(around(x, y, size / 2.4), fill=fill)
            draw.ellipse(
                (x - size / 4, y - size / 4, x - size / 10, y - size / 10), fill=shifted(fill, 0, -0.3, 0.2)
            )


def capsule(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], r: float, fill: Colour
) -> None:
    """Draw a thick line with round ends."""
    draw.line((start, end), fill=fill, width=round(2 * r))
    for x, y in (start, end):
        draw.ellipse(around(x, y, r), fill=fill)


def draw_hand(
    generator: np.random.Generator, centre: tuple[float, float], reach: float
) -> tuple[Image.Image, Image.Image]:
    """Draw a hand that holds what stands at `centre`: the palm behind it and the fingertips in front of it.

    `reach`: half width (pixels) of what is held. Returns two RGBA layers, `SIDE` square.
    """
    skin = colour(generator.uniform(0.03, 0.09), generator.uniform(0.25, 0.6), generator.uniform(0.35, 0.95))
    dark = shifted(skin, 0, 0.05, -0.12)
    behind, front = (Image.new("RGBA", (SIDE, SIDE), (*skin, 0)) for _ in range(2))
    draw_behind, draw_front = ImageDraw.Draw(behind), ImageDraw.Draw(front)
    side = 1 if generator.random() < 0.5 else -1
    thick = SIDE * generator.uniform(0.035, 0.055)
    height = centre[1] + SIDE * generator.uniform(0.0, 0.2)
    wrist = (centre[0] + side * SIDE * generator.uniform(0.3, 0.6), SIDE * 1.1)
    palm = (centre[0] + side * reach * 0.9, height + thick)
    capsule(draw_behind, wrist, palm, 2.3 * thick, dark)
    for k in range(int(generator.integers(2, 5))):
        y = height - 1.5 * thick + 2.05 * k * thick
        tip = centre[0] - side * reach * generator.uniform(0.0, 0.75)
        start, end = (centre[0] + side * (reach + 1.4 * thick), y + 0.8 * thick), (tip, y)
        capsule(draw_front, start, end, thick, dark)
        capsule(draw_front, (start[0], start[1] - 2), (end[0], end[1] - 2), thick * 0.86, skin)
        draw_front.ellipse(
            (tip - thick * 0.5, y - thick * 0.6, tip + thick * 0.5, y + thick * 0.3),
            fill=shifted(skin, -0.01, -0.1, 0.08),
        )
    return behind, front
