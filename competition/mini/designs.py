"""What is printed on a product: label grounds, patterns, icons, brand words and small print."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from competition.mini.products import Colour, Product

Pen = ImageDraw.ImageDraw
Point = tuple[float, float]  # x, y in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@functools.lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's embedded font at `size` pixels (no font files of the system: the bytes must not depend on it)."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)  # Pillow's wheels carry FreeType
    return found


def fitted_text(draw: Pen, text: str, centre: Point, width: float, height: float, fill: Colour) -> None:
    """Write `text` in one line around `centre`, as large as `width` and `height` (pixels) allow."""
    size = int(max(7, min(height, 1.45 * width / max(1, len(text)))))
    while size > 7 and draw.textlength(text, font=font(size)) > width:
        size -= 1
    draw.text(centre, text, font=font(size), fill=fill, anchor="mm")


def around(x: float, y: float, r: float) -> Box:
    """Return the box of the circle of radius `r` around (x, y)."""
    return x - r, y - r, x + r, y + r


def draw_icon(draw: Pen, icon: str, x: float, y: float, r: float, fill: Colour) -> None:
    """Draw the icon of radius `r` pixels around (x, y)."""
    if icon == "circle":
        draw.ellipse(around(x, y, r), outline=fill, width=max(2, int(r / 5)))
    elif icon == "drop":
        draw.ellipse((x - 0.7 * r, y - 0.3 * r, x + 0.7 * r, y + r), fill=fill)
        tip = ((x, y - 1.1 * r), (x - 0.66 * r, y + 0.15 * r), (x + 0.66 * r, y + 0.15 * r))
        draw.polygon(tip, fill=fill)
    elif icon == "leaf":
        edge = [(0.45 * r * math.sin(math.pi * t / 8), y - r + 2 * r * t / 8) for t in range(9)]
        points = [(x + wide, at) for wide, at in edge] + [(x - wide, at) for wide, at in edge[::-1]]
        draw.polygon(points, fill=fill)
    elif icon == "flower":
        for k in range(6):
            px, py = x + 0.6 * r * math.cos(math.pi * k / 3), y + 0.6 * r * math.sin(math.pi * k / 3)
            draw.ellipse(around(px, py, 0.38 * r), fill=fill)
    elif icon == "star":
        points = [(r * (1 - 0.55 * (k % 2)), math.pi * k / 5) for k in range(10)]
        draw.polygon([(x + reach * math.sin(t), y - reach * math.cos(t)) for reach, t in points], fill=fill)
    elif icon == "moon":
        draw.chord(around(x, y, r), 60, 240, fill=fill)
    elif icon == "diamond":
        draw.polygon(((x, y - r), (x + 0.7 * r, y), (x, y + r), (x - 0.7 * r, y)), fill=fill)
    elif icon == "heart":
        draw.ellipse((x - r, y - 0.8 * r, x, y + 0.2 * r), fill=fill)
        draw.ellipse((x, y - 0.8 * r, x + r, y + 0.2 * r), fill=fill)
        draw.polygon(((x - 0.95 * r, y - 0.1 * r), (x + 0.95 * r, y - 0.1 * r), (x, y + r)), fill=fill)


def draw_pattern(draw: Pen, pattern: str, box: Box, scale: float, fill: Colour) -> None:
    """Fill `box` with a pattern whose period grows with `scale`."""
    left, top, right, bottom = box
    step = 16 * scale
    columns, rows = int((right - left) / step) + 1, int((bottom - top) / step) + 1
    grid = [
        (left + (i + 0.5) * step, top + (j + 0.5) * step, i, j) for j in range(rows) for i in range(columns)
    ]
    if pattern == "stripes":
        for j in range(rows):
            draw.rectangle((left, top + j * step, right, min(bottom, top + (j + 0.4) * step)), fill=fill)
    elif pattern == "bars":
        for i in range(columns):
            draw.rectangle((left + i * step, top, left + (i + 0.4) * step, bottom), fill=fill)
    elif pattern == "dots":
        for x, y, _, j in grid:
            draw.ellipse(around(x + step / 2 * (j % 2), y, 0.25 * step), fill=fill)
    elif pattern == "waves":
        for j in range(rows):
            middle, xs = top + (j + 0.5) * step, np.arange(left, right, 4)
            draw.line([(x, middle + 0.3 * step * math.sin(x / step * 3.1)) for x in xs], fill=fill, width=3)
    elif pattern == "chevrons":
        for j in range(rows):
            heights = [top + (j + 0.25 + 0.5 * (k % 2)) * step for k in range(columns + 1)]
            draw.line([(left + k * step, at) for k, at in enumerate(heights)], fill=fill, width=3)
    elif pattern in ("leaves", "petals", "checks"):
        for x, y in ((x, y) for x, y, i, j in grid if (i + j) % 2):
            if pattern == "checks":
                draw.rectangle(around(x, y, step / 2), fill=fill)
            else:
                draw_icon(draw, "leaf" if pattern == "leaves" else "flower", x, y, 0.6 * step, fill)
    elif pattern == "rings":
        for x, y, i, j in grid:
            if not (i % 2 or j % 2):
                draw.ellipse(around(x, y, 0.7 * step), outline=fill, width=3)


def draw_label(product: Product, width: int, height: int, around: int) -> Image.Image:
    """Draw what is printed on a body `height` pixels high.

    The result is RGBA, `around` pixels wide (the way round the body, front in the middle); the printed front is `width`
    pixels wide. Transparent where the body shows.
    """
    image = Image.new("RGBA", (around, height), (*product.label, 0))
    draw = ImageDraw.Draw(image)
    middle, half = around / 2, 0.46 * width
    top, bottom = 0.1 * height, 0.9 * height
    shape, front = product.label_shape, (middle - half, top, middle + half, bottom)
    if shape == "band":
        top, bottom = 0.28 * height, 0.78 * height
        draw.rectangle((0, top, around, bottom), fill=product.label)
    elif shape == "panel":
        draw.rounded_rectangle(front, radius=0.08 * width, fill=product.label)
    elif shape == "oval":
        draw.ellipse(front, fill=product.label)
        top, bottom, half = top + 0.12 * height, bottom - 0.12 * height, 0.85 * half
    elif shape == "wrap":
        top, bottom = 0.05 * height, 0.95 * height
        draw.rectangle((0, top, around, bottom), fill=product.label)
        draw.rectangle((0, top, around, top + 0.04 * height), fill=product.accent)
        draw.rectangle((0, bottom - 0.04 * height, around, bottom), fill=product.accent)
    room = bottom - top
    first, last, *lines = {  # of the pattern, and where brand, category and variant are
        "top": (top + 0.55 * room, bottom, 0.12, 0.3, 0.44),
        "middle": (top, top + 0.25 * room, 0.4, 0.56, 0.7),
        "bottom": (top, top + 0.42 * room, 0.56, 0.72, 0.84),
        "split": (top + 0.36 * room, top + 0.6 * room, 0.14, 0.72, 0.86),
    }[product.layout]
    if product.pattern != "none":
        wide = around / 2 if shape in ("band", "wrap") else (0.8 if shape == "oval" else 0.94) * half
        box = (middle - wide, first + 2, middle + wide, last - 2)
        red, green, blue = (round(0.2 * a + 0.8 * b) for a, b in zip(product.label, product.accent))
        draw_pattern(draw, product.pattern, box, product.pattern_scale, (red, green, blue))
    texts, widths, heights = (*product.words[:2], product.variant), (1.8, 1.5, 1.4), (0.2, 0.12, 0.1)
    for text, share, w, h in zip(texts, lines, widths, heights):
        fitted_text(draw, text, (middle, top + share * room), w * half, h * room, product.ink)
    if product.icon != "none":
        radius = max(0.28 * min(half, 0.5 * room), 5.0)
        draw_icon(draw, product.icon, middle, (first + last) / 2, radius, product.ink)
    return image
