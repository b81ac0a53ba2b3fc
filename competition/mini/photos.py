"""User photos: a product on a cluttered ground or in a hand, seen obliquely, badly lit, blurred and partly hidden."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from competition.mini.catalogue import SIDE, cast_shadow, placed
from competition.mini.packaging import draw_packaging
from competition.mini.products import Product, draw_product, random_colour
from competition.mini.scenes import draw_clutter, draw_ground, draw_hand, noise


def lighting(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the picture (SIDE, SIDE, 3) float32 under another light.

    Colour temperature, exposure, contrast, a fall-off across the picture, a soft shadow and now and then a glare.
    """
    gains = np.exp(generator.normal(0, (0.09, 0.03, 0.11))).astype(np.float32)
    pixels = pixels * gains * float(np.exp(generator.normal(-0.05, 0.2)))
    contrast = float(generator.uniform(0.72, 1.12))
    pixels = (pixels - 128) * contrast + 128 + float(generator.normal(0, 8))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    turn = float(generator.uniform(0, 2 * np.pi))
    slope = np.cos(turn) * x + np.sin(turn) * y
    light = 1 + float(generator.uniform(0, 0.3)) * slope - float(generator.uniform(0, 0.18)) * (x * x + y * y)
    if generator.random() < 0.5:
        edge = slope + 0.25 * noise(generator, 4, 4) - float(generator.uniform(-0.5, 0.6))
        light = light * (1 - float(generator.uniform(0.15, 0.45)) / (1 + np.exp(-10 * edge)))
    pixels = pixels * light[..., None]
    if generator.random() < 0.3:
        cx, cy = generator.uniform(-0.5, 0.5, 2)
        spread = float(generator.uniform(0.01, 0.05))
        glare = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / spread) * float(generator.uniform(0.3, 0.8))
        pixels = pixels + glare[..., None] * (255 - pixels)
    return pixels


def blurred(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return the picture out of focus, shaken, or (a third of the time) sharp."""
    kind = generator.choice(3, p=(0.35, 0.4, 0.25))
    if kind == 1:
        return picture.filter(ImageFilter.GaussianBlur(float(generator.uniform(0.5, 1.8))))
    if kind == 2:
        turn, length = float(generator.uniform(0, np.pi)), float(generator.uniform(2, 6))
        total = np.zeros((SIDE, SIDE, 3), np.float32)
        for t in np.linspace(-0.5, 0.5, 5):
            shift = (1, 0, t * length * np.cos(turn), 0, 1, t * length * np.sin(turn))
            total += np.asarray(
                picture.transform(picture.size, Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR)
            )
        return Image.fromarray((total / 5).astype(np.uint8), "RGB")
    return picture


def draw_photo(product: Product, generator: np.random.Generator) -> tuple[Image.Image, int]:
    """Draw one user photo of the product.

    Returns an RGB picture, `SIDE` pixels square, and the JPEG quality to save it with. Every choice comes from
    `generator`.
    """
    picture = draw_ground(generator)
    draw_clutter(picture, generator, int(generator.integers(1, 6)))
    if generator.random() < 0.45:  # something else of the shop beside it
        other = draw_packaging(draw_product(generator), yaw=generator.normal(0, 0.5), light=1.0)
        beside = (SIDE * float(generator.choice((0.08, 0.92))), SIDE * generator.uniform(0.2, 0.8))
        wide = SIDE * generator.uniform(0.4, 0.65)
        layer = placed(other, size=wide, angle=generator.normal(0, 25), centre=beside)
        cast_shadow(picture, layer, (4, 5), 5, 0.4)
        picture.paste(layer, (0, 0), layer)
    light = float(generator.choice((-1.0, 1.0)))
    product_layer = draw_packaging(product, yaw=generator.normal(0, 0.3), light=light)
    size = SIDE * generator.uniform(0.5, 0.88)
    centre = (SIDE * (0.5 + generator.normal(0, 0.06)), SIDE * (0.5 + generator.normal(0, 0.05)))
    held = generator.random() < 0.4
    angle = generator.normal(0, 10 if held else 18)
    squeeze, tilt = generator.uniform(0.82, 1.05), generator.normal(0, 0.14)
    layer = placed(product_layer, size=size, angle=angle, centre=centre, squeeze=squeeze, tilt=tilt)
    reach = 0.5 * size * min(1.0, product_layer.width / max(product_layer.size))
    if held:
        behind, front = draw_hand(generator, centre, reach)
        cast_shadow(picture, behind, (-6 * light, 8), 8, 0.3)
        picture.paste(behind, (0, 0), behind)
    else:
        shift = (-light * generator.uniform(3, 14), generator.uniform(3, 12))
        cast_shadow(picture, layer, shift, generator.uniform(3, 9), generator.uniform(0.3, 0.7))
    picture.paste(layer, (0, 0), layer)
    if held:
        cast_shadow(picture, front, (-2 * light, 3), 3, 0.4)
        picture.paste(front, (0, 0), front)
    elif generator.random() < 0.25:  # a corner of something lies over it
        x = centre[0] + float(generator.choice((-1, 1))) * reach
        cover = Image.new("RGBA", (48, 30), (*random_colour(generator), 255))
        wide, angle = generator.uniform(45, 90), generator.uniform(0, 180)
        over = placed(cover, size=wide, angle=angle, centre=(x, centre[1] + generator.normal(0, 0.25) * size))
        cast_shadow(picture, over, (3, 4), 4, 0.4)
        picture.paste(over, (0, 0), over)
    picture = blurred(picture, generator)
    pixels = lighting(np.asarray(picture).astype(np.float32), generator)
    pixels = pixels + generator.standard_normal((SIDE, SIDE, 1), np.float32) * float(generator.uniform(0, 7))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB"), int(generator.integers(35, 85))
