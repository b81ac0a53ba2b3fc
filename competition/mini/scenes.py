"""Where user photos are taken: table tops, cloths and tiles, things lying about, and the hand that holds the product."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from competition.mini.catalogue import SIDE
from competition.mini.designs import Pen, Point, around, draw_pattern
from competition.mini.products import PATTERNS, Colour, colour, pick, random_colour, shifted


def noise(rng: Generator, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise in about [-1, 1], (SIDE, SIDE) float32, with that many cells down and across."""
    cells = rng.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draw_ground(rng: Generator) -> Image.Image:
    """Draw a surface: wood, stone, cloth, tiles or a plain wall. Returns RGB, `SIDE` square."""
    kind = pick(rng, ("wood", "stone", "cloth", "tiles", "wall"))
    if kind == "wood":
        base = colour(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.85))
        texture = 16 * noise(rng, 60, 4) + 10 * noise(rng, 12, 3)
    elif kind == "stone":
        base = colour(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.4, 0.95))
        texture = 12 * noise(rng, 6, 6) + 10 * noise(rng, 24, 24) + 7 * noise(rng, 90, 90)
    else:
        base = random_colour(rng)
        texture = 6 * noise(rng, 4, 4) + (7 * noise(rng, 120, 120) if kind == "cloth" else 0)
    if rng.random() < 0.5:
        texture = texture.T
    pixels = np.clip(np.asarray(base, np.float32) + texture[..., None], 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels, "RGB")
    draw = ImageDraw.Draw(picture)
    if kind == "tiles":
        step, grout = rng.uniform(40, 90), shifted(base, 0, 0, -0.25)
        for at in step * np.arange(int(SIDE / step) + 1):
            draw.line((0, at, SIDE, at), fill=grout, width=3)
            draw.line((at, 0, at, SIDE), fill=grout, width=3)
    elif kind == "cloth" and rng.random() < 0.7:
        pattern, scale = pick(rng, PATTERNS), rng.uniform(0.8, 2.5)
        fill = shifted(base, 0, 0.05, rng.uniform(-0.25, 0.25))
        draw_pattern(draw, pattern, (0, 0, SIDE, SIDE), scale, fill)
    return picture


def draw_clutter(picture: Image.Image, rng: Generator, count: int) -> None:
    """Lay `count` things about: books, cups, pens, cables, phones, keys, fruit; some run out of the picture."""
    draw = ImageDraw.Draw(picture)
    for _ in range(count):
        x, y = rng.uniform(-0.1, 1.1, 2) * SIDE
        size = rng.uniform(0.1, 0.3) * SIDE
        fill = random_colour(rng)
        edge = shifted(fill, 0, 0, -0.2)
        kind = ("book", "phone", "cup", "pen", "cable", "fruit")[rng.integers(6)]
        turn = rng.uniform(0, math.pi)
        along, across = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
        if kind in ("book", "phone"):
            long, wide = (size, 0.7 * size) if kind == "book" else (0.8 * size, 0.4 * size)
            corners = [
                tuple(at + sx * long * u + sy * wide * v for at, u, v in zip((x, y), along, across))
                for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            draw.polygon(corners, fill=fill, outline=edge)
            draw.line((corners[0], corners[3]), fill=edge, width=4)
        elif kind == "cup":  # from above
            draw.ellipse(around(x, y, size / 2), fill=fill, outline=edge, width=3)
            draw.ellipse(around(x, y, size / 3), fill=colour(0.07, 0.6, 0.25))
        elif kind == "pen":
            dx, dy = size * along[0], size * along[1]
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=fill, width=7)
        elif kind == "cable":
            points = [
                (x + size * 4 * (t - 0.5), y + size * math.sin(6 * t + turn)) for t in np.linspace(0, 1, 30)
            ]
            draw.line(points, fill=edge, width=3)
        else:
            draw.ellipse(around(x, y, size / 2.4), fill=fill)
            glint = (x - size / 4, y - size / 4, x - size / 10, y - size / 10)
            draw.ellipse(glint, fill=shifted(fill, 0, -0.3, 0.2))


def capsule(draw: Pen, start: Point, end: Point, r: float, fill: Colour) -> None:
    """Draw a thick line with round ends."""
    draw.line((start, end), fill=fill, width=round(2 * r))
    for x, y in (start, end):
        draw.ellipse(around(x, y, r), fill=fill)


def draw_hand(rng: Generator, centre: Point, reach: float) -> tuple[Image.Image, Image.Image]:
    """Draw a hand that holds what stands at `centre`: the palm behind it and the fingertips in front of it.

    `reach`: half width (pixels) of what is held. Returns two RGBA layers, `SIDE` square.
    """
    skin = colour(rng.uniform(0.03, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.35, 0.95))
    dark = shifted(skin, 0, 0.05, -0.12)
    behind, front = (Image.new("RGBA", (SIDE, SIDE), (*skin, 0)) for _ in range(2))
    draw_behind, draw_front = ImageDraw.Draw(behind), ImageDraw.Draw(front)
    side = 1 if rng.random() < 0.5 else -1
    thick = SIDE * rng.uniform(0.035, 0.055)
    height = centre[1] + SIDE * rng.uniform(0.0, 0.2)
    wrist = (centre[0] + side * SIDE * rng.uniform(0.3, 0.6), SIDE * 1.1)
    palm = (centre[0] + side * reach * 0.9, height + thick)
    capsule(draw_behind, wrist, palm, 2.3 * thick, dark)
    for k in range(int(rng.integers(2, 5))):
        y = height - 1.5 * thick + 2.05 * k * thick
        tip = centre[0] - side * reach * rng.uniform(0.0, 0.75)
        start, end = (centre[0] + side * (reach + 1.4 * thick), y + 0.8 * thick), (tip, y)
        capsule(draw_front, start, end, thick, dark)
        capsule(draw_front, (start[0], start[1] - 2), (end[0], end[1] - 2), thick * 0.86, skin)
        nail = (tip - thick * 0.5, y - thick * 0.6, tip + thick * 0.5, y + thick * 0.3)
        draw_front.ellipse(nail, fill=shifted(skin, -0.01, -0.1, 0.08))
    return behind, front
