"""Packaging with its shine: surfaces of revolution (bottles, tubes, jars ...) and flat things (compacts, palettes ...)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from competition.mini.designs import Box, Pen, draw_label, draw_pattern, fitted_text
from competition.mini.products import Colour, Product, shifted

HEIGHT = 320  # pixels of the tallest product; pictures show it smaller, which smooths its edges


@dataclass(frozen=True)
class Segment:
    """A stretch of a surface of revolution: half widths (pixels, one a row, top first), colour and finish."""

    half_widths: np.ndarray
    colour: Colour
    finish: str
    printed: bool = False


def straight(rows: float, top: float, bottom: float | None = None) -> np.ndarray:
    """Half widths that run straight from `top` to `bottom` over so many rows."""
    return np.linspace(top, top if bottom is None else bottom, max(2, round(rows)))


def rounded(half_widths: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """Round the upper and lower edge of a profile with those radii (pixels)."""
    rows = np.arange(len(half_widths)) + 0.5
    inset = np.zeros(len(half_widths))
    for radius, distance in ((top, rows), (bottom, len(half_widths) - rows)):
        if radius >= 1:
            depth = np.clip(radius - distance, 0, radius)
            inset = np.maximum(inset, radius - np.sqrt(radius**2 - depth**2))
    return np.maximum(half_widths - inset, 1.0)


def segments_of(product: Product) -> list[Segment]:
    """Return the stretches of a product of revolution, top first; `shape` sets heights, widths and roundness."""
    a, b, c, d, e = product.shape[:5]
    kind, cap, shine = product.kind, product.cap, product.cap_finish
    tall = HEIGHT * (0.82 + 0.18 * e)

    def capped(half_widths: np.ndarray, top: float, bottom: float) -> Segment:
        return Segment(rounded(half_widths, top, bottom), cap, shine)

    def printed(half_widths: np.ndarray, top: float, bottom: float) -> Segment:
        return Segment(rounded(half_widths, top, bottom), product.body, product.finish, True)

    if kind in ("bottle", "pump", "spray", "dropper"):
        half = tall * (0.14 + 0.12 * a)
        neck = half * (0.3 + 0.3 * b)
        lid = tall * {"bottle": 0.12 + 0.1 * c, "pump": 0.1, "spray": 0.2 + 0.08 * c, "dropper": 0.1}[kind]
        bulb = rounded(straight(tall * 0.13, neck * 0.6, neck * 0.72), neck * 0.6, 0)
        head, stem = straight(tall * 0.03, half * 0.55), straight(tall * 0.08, half * 0.1)
        nozzle = rounded(straight(tall * 0.07, neck * 0.8), 6, 0)
        tops = {
            "bottle": [],
            "pump": [Segment(head, cap, shine), Segment(stem, cap, shine)],
            "dropper": [Segment(bulb, shifted(product.accent, 0, 0, -0.1), "matte")],
            "spray": [Segment(nozzle, product.accent, "matte")],
        }[kind]
        tops.append(capped(straight(lid, half * 0.85 if kind == "spray" else neck * 1.1), 4 + 8 * d, 0))
        main = straight(tall - sum(len(top.half_widths) for top in tops), half * (0.86 + 0.14 * d), half)
        return [*tops, printed(main, half * (0.15 + 0.6 * d), 4 + 14 * c)]
    if kind == "tube":
        half = tall * (0.13 + 0.1 * a)
        lid = tall * (0.1 + 0.12 * c)
        return [
            Segment(straight(tall * 0.05, half * 1.08), shifted(product.body, 0, 0, -0.08), "matte"),
            printed(straight(tall * 0.95 - lid, half * 1.08, half * (0.7 + 0.25 * b)), 0, half * 0.25),
            capped(straight(lid, half * (0.55 + 0.25 * d)), 2, 5),
        ]
    if kind == "jar":
        tall *= 0.45 + 0.2 * b
        half = HEIGHT * (0.24 + 0.12 * a)
        lid = tall * (0.25 + 0.2 * c)
        return [
            capped(straight(lid, half * (0.94 + 0.08 * d)), 4 + 10 * d, 0),
            printed(straight(tall - lid, half), 4, 8 + 26 * d),
        ]
    if kind == "lipstick":
        half = tall * (0.1 + 0.04 * a)
        bullet = rounded(straight(tall * (0.2 + 0.1 * b), half * 0.62), half * (0.3 + 0.3 * c), 0)
        return [
            Segment(bullet, product.shades[0], "glossy"),
            Segment(straight(tall * 0.14, half * 0.72), cap, "metal" if shine == "metal" else "glossy"),
            printed(straight(tall * 0.5, half), 2, 4),
        ]
    if kind == "mascara":
        half = tall * (0.065 + 0.04 * a)
        top = tall * (0.38 + 0.14 * b)
        return [
            capped(straight(top, half * (0.8 + 0.2 * c), half), 3 + 8 * d, 0),
            Segment(straight(tall * 0.03, half * 0.96), product.accent, "metal"),
            printed(straight(tall * 0.97 - top, half), 0, 6),
        ]
    # nail polish: a small bottle that shows its contents, under a long cap
    tall *= 0.8
    half = tall * (0.17 + 0.09 * a)
    top = tall * (0.4 + 0.15 * b)
    bottle = rounded(straight(tall - top, half), half * (0.2 + 0.5 * d), half * 0.25)
    return [
        capped(straight(top, half * (0.38 + 0.1 * c), half * (0.45 + 0.12 * c)), 4 + 6 * d, 0),
        Segment(bottle, product.shades[0], "glass", True),
    ]


def bump(at: np.ndarray, width: float) -> np.ndarray:
    """A highlight of that width about zero, 1 at its middle."""
    return np.exp(-((at / width) ** 2))


def shine_of(u: np.ndarray, finish: str, light: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and the white share for positions `u` in [-1, 1] across a round body lit from `light`."""
    facing = np.sqrt(np.clip(1 - (u - 0.45 * light) ** 2 / 1.9, 0, 1))
    if finish == "metal":
        factor = 0.62 + 0.3 * np.cos(5.2 * (u - 0.3 * light)) + 0.1 * np.cos(11 * u)
        return np.clip(factor, 0.25, 1.1), 0.55 * bump(u - 0.42 * light, 0.09)
    if finish == "glossy":
        return 0.5 + 0.5 * facing, 0.6 * bump(u - 0.5 * light, 0.08) + 0.2 * bump(u + 0.72 * light, 0.05)
    if finish == "glass":
        white = 0.45 * bump(u - 0.62 * light, 0.06) + 0.25 * bump(u, 0.5)
        return 0.55 + 0.45 * np.sqrt(np.clip(1 - u**6, 0, 1)), white
    return 0.45 + 0.55 * facing, np.zeros_like(u)


def draw_revolved(product: Product, yaw: float, light: float) -> Image.Image:
    """Draw a product of revolution upright, turned by `yaw` radians about its axis."""
    segments = segments_of(product)
    widest = max(float(segment.half_widths.max()) for segment in segments)
    side = 2 * math.ceil(widest) + 4
    x = np.arange(side) + 0.5 - side / 2
    stripes = []
    for segment in segments:
        half = segment.half_widths[:, None]
        u = np.clip(x[None, :] / half, -1, 1)
        colours = np.broadcast_to(np.asarray(segment.colour, np.float32), (*u.shape, 3)).copy()
        rows = len(segment.half_widths)
        if segment.printed:
            radius = float(np.median(segment.half_widths))
            around = int((math.pi + 2) * radius)
            label = np.asarray(draw_label(product, int(2.0 * radius), rows, around), np.float32)
            columns = np.clip((np.arcsin(u) - yaw) * radius + around / 2, 0, around - 1).astype(np.int64)
            printed = label[np.arange(rows)[:, None], columns]
            share = printed[..., 3:] / 255
            colours += share * (printed[..., :3] - colours)
        factor, white = shine_of(u, segment.finish, light)
        colours = colours * factor[..., None]
        colours += white[..., None] * (255 - colours)
        colours[:2] *= 0.8  # the joint above this stretch
        alpha = np.clip(half - np.abs(x)[None, :] + 0.5, 0, 1) * 255
        stripes.append(np.concatenate((colours, alpha[..., None]), axis=2))
    layer = Image.fromarray(np.clip(np.concatenate(stripes), 0, 255).astype(np.uint8), "RGBA")
    if product.kind == "pump":  # the spout
        left, right = sorted((side / 2, side / 2 + (1 if yaw >= 0 else -1) * widest * 0.85))
        ImageDraw.Draw(layer).rectangle((left, 2, right, 9), fill=shifted(product.cap, 0, 0, -0.12))
    return layer


def lit(image: Image.Image, light: float) -> Image.Image:
    """Return an RGBA image darkened towards one side and with a soft sheen, as flat things look."""
    pixels = np.asarray(image).astype(np.float32)
    across = np.linspace(-1, 1, pixels.shape[1])[None, :, None]
    down = np.linspace(-1, 1, pixels.shape[0])[:, None, None]
    pixels[..., :3] *= 0.92 + 0.08 * light * across - 0.04 * down
    sheen = 0.16 * bump(across * light + 0.6 * down + 0.35, 0.16)
    pixels[..., :3] += sheen * (255 - pixels[..., :3])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def draw_pan(draw: Pen, box: Box, shade: Colour, round_pan: bool) -> None:
    """Draw a pan of powder with its dark rim and a lighter upper left."""
    left, top, right, bottom = box
    inner = (left + 3, top + 3, right - 3, bottom - 3)
    rim, bright = shifted(shade, 0, 0, -0.3), shifted(shade, 0, -0.1, 0.12)
    if round_pan:
        draw.ellipse(box, fill=rim)
        draw.ellipse(inner, fill=shade)
        draw.arc((left + 8, top + 8, right - 8, bottom - 8), 150, 300, fill=bright, width=3)
    else:
        draw.rounded_rectangle(box, radius=6, fill=rim)
        draw.rounded_rectangle(inner, radius=5, fill=shade)
        draw.line((left + 9, top + 9, right - 12, top + 9), fill=bright, width=3)


def draw_flat(product: Product, light: float) -> Image.Image:
    """Draw a compact (open: pan below, lid above), a palette or a carton, seen from the front."""
    a, b, c, d = product.shape[:4]
    if product.kind == "carton":
        wide, tall = int(HEIGHT * (0.34 + 0.3 * a)), int(HEIGHT * (0.75 + 0.25 * b))
        image = Image.new("RGBA", (wide, tall), (*product.body, 255))
        image.alpha_composite(draw_label(product, wide, tall, wide))
        side = (0, 0, wide * (0.05 + 0.08 * c), tall)
        ImageDraw.Draw(image).rectangle(side, fill=shifted(product.body, 0, 0, -0.2))
        return lit(image, light)
    if product.kind == "compact":
        wide, tall = int(HEIGHT * (0.5 + 0.2 * a)), int(HEIGHT * 0.98)
        image = Image.new("RGBA", (wide, tall), (0, 0, 0, 0))
        draw = ImageDraw.Draw(image)
        radius = wide / 2 - 1 if b < 0.5 else 6 + 50 * c
        lid, pan = (0, 0, wide - 1, tall * 0.5), (0, tall * 0.5, wide - 1, tall - 1)
        for box, fill in ((lid, product.body), (pan, shifted(product.body, 0, 0, -0.06))):
            draw.rounded_rectangle(box, radius=min(radius, (box[3] - box[1]) / 2), fill=fill)
        draw_pan(draw, (wide * 0.12, tall * 0.56, wide * 0.88, tall * 0.94), product.shades[0], b < 0.5)
        if product.pattern != "none":
            emboss = shifted(product.shades[0], 0, 0, -0.12)
            inside = (wide * 0.27, tall * 0.64, wide * 0.73, tall * 0.86)
            draw_pattern(draw, product.pattern, inside, product.pattern_scale, emboss)
        fitted_text(draw, product.words[0], (wide / 2, tall * 0.2), wide * 0.7, tall * 0.1, product.ink)
        fitted_text(draw, product.variant, (wide / 2, tall * 0.3), wide * 0.6, tall * 0.06, product.ink)
        return lit(image, light)
    columns, rows = 2 + int(a * 3), 1 + int(b * 3)
    pan_px = HEIGHT * 0.9 / max(columns, rows + 1)
    wide, tall = int(columns * pan_px + 16), int((rows + 0.9) * pan_px + 16)
    image = Image.new("RGBA", (wide, tall), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, wide - 1, tall - 1), radius=5 + 18 * c, fill=product.body)
    for k in range(columns * rows):
        left, top = 8 + (k % columns) * pan_px + 3, 8 + (k // columns) * pan_px + 3
        draw_pan(draw, (left, top, left + pan_px - 6, top + pan_px - 6), product.shades[k % 12], d < 0.5)
    for text, above, width, height in ((product.words[0], 0.6, 0.7, 0.4), (product.variant, 0.28, 0.6, 0.2)):
        centre = (wide / 2, tall - above * pan_px)
        fitted_text(draw, text, centre, wide * width, pan_px * height, product.ink)
    return lit(image, light)


def draw_packaging(product: Product, yaw: float, light: float) -> Image.Image:
    """Draw the product upright on a transparent ground, cropped to itself.

    Returns RGBA, at most about `HEIGHT` pixels high. `yaw`: radians by which round things are turned about their axis;
    `light`: -1 (from the left) to 1. Deterministic.
    """
    if product.kind in ("compact", "palette", "carton"):
        return draw_flat(product, light)
    return draw_revolved(product, yaw, light)
