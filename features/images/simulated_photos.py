"""Photos simulated of gallery images: crop, perspective, background, light, blur, noise, mirror, JPEG.

A photo is a function of the image and the seed alone. Numbers are drawn by numpy's PCG64; pictures are resampled by
Pillow (perspective: bilinear; maps of light and background: bicubic; blur: a box) and compressed by Pillow's
libjpeg-turbo, baseline with 4:2:0 chroma. No function of the C library that may round otherwise elsewhere (sin, exp,
solve) is used, so that with the Pillow that constraints.txt names the bytes are the same on every x86-64 machine.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import sqrt

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

VERSION = 1  # raise when a seed gives other bytes: the dumps of the photos are then made again
AREA = (0.35, 1.0)
ASPECT = (0.85, 1.15)
TURN = 0.2217  # tan(25° / 2)
PERSPECTIVE = 0.15  # of a side, for each corner
SMALLEST_PX = 8
MASK_PX = 64  # longer side at which the white around a product is looked for
WHITE, NEARLY_WHITE = 250, 225
BACKGROUNDS = ("white", "plain", "gradient", "patches", "texture")
GREY = (0.299, 0.587, 0.114)

Quad = list[tuple[float, float]]


def simulated_photo(image: np.ndarray, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 -> a photo of it, uint8 (H', W', 3), about as many pixels as the part of the image that it shows.

    Where the product is on white, most photos show it before another background; what lies beyond the edge of any
    other image goes on in its blurred colours.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    pixels = Image.fromarray(image)
    product = _product(pixels)
    quad, size = _viewed(rng, *pixels.size)
    mask = product if product is not None else Image.new("L", pixels.size, 255)
    if product is not None:
        photo = _background(rng, size)
    else:
        photo = pixels.resize((6, 6), Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    pixels.putalpha(mask)
    warp = Image.Transform.PERSPECTIVE, _coefficients(quad, *size)
    warped = pixels.transform(size, *warp, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255, 0))
    photo.paste(warped.convert("RGB"), mask=warped.getchannel("A"))
    return _exposed(rng, photo)


def contact_sheet(
    originals: Sequence[np.ndarray], photos: Sequence[Sequence[np.ndarray]], tile: int = 128
) -> bytes:
    """A JPEG: a row for each image, the original at the left, its photos beside it."""
    columns = 1 + max(map(len, photos), default=0)
    sheet = Image.new("RGB", (columns * tile, max(1, len(originals)) * tile), (60, 60, 60))
    for row, (original, views) in enumerate(zip(originals, photos, strict=True)):
        for column, pixels in enumerate([original, *views]):
            small = Image.fromarray(pixels)
            small.thumbnail((tile - 4, tile - 4))
            at = column * tile + (tile - small.width) // 2, row * tile + (tile - small.height) // 2
            sheet.paste(small, at)
    return jpeg_bytes(sheet, 85)


def _viewed(rng: np.random.Generator, width: int, height: int) -> tuple[Quad, tuple[int, int]]:
    """The corners of the image's part that the photo shows, and the photo's width and height.

    The corners are in the order of the photo's, from the upper left, clockwise.
    """
    side = sqrt(rng.uniform(*AREA))
    wide, high = width * side, height * side
    x = wide / 2 + rng.uniform(0, 1) * (width - wide)
    y = high / 2 + rng.uniform(0, 1) * (height - high)
    half = rng.uniform(-TURN, TURN)
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    quad = []
    for across, down in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        moved = rng.uniform(0, PERSPECTIVE, 2) - PERSPECTIVE / 2
        a, b = wide * (across + moved[0]), high * (down + moved[1])
        quad.append((float(x + a * cosine - b * sine), float(y + a * sine + b * cosine)))
    if rng.uniform() < 0.5:
        quad = [quad[1], quad[0], quad[3], quad[2]]
    stretch = sqrt(rng.uniform(*ASPECT))
    return quad, (max(SMALLEST_PX, round(wide * stretch)), max(SMALLEST_PX, round(high / stretch)))


def _coefficients(quad: Quad, width: int, height: int) -> tuple[float, ...]:
    """Pillow's eight numbers that send the rectangle width × height to the quadrangle (Heckbert 1989)."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = quad
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    area = dx1 * dy2 - dx2 * dy1
    g, h = (dx3 * dy2 - dx2 * dy3) / area, (dx1 * dy3 - dx3 * dy1) / area
    a, b = x1 - x0 + g * x1, x3 - x0 + h * x3
    d, e = y1 - y0 + g * y1, y3 - y0 + h * y3
    return a / width, b / height, x0, d / width, e / height, y0, g / width, h / height


def _product(pixels: Image.Image) -> Image.Image | None:
    """The mask (L, 255: product) of a product on a white ground; None where the image's border is not white.

    White is what is nearly white and joined to the border, looked for on a small copy; its edge is that of the image.
    """
    from scipy import ndimage  # predict does without it

    factor = min(1.0, MASK_PX / max(pixels.size))
    width, height = (max(1, round(length * factor)) for length in pixels.size)
    small = pixels.resize((width, height), Image.Resampling.BOX)
    white = np.asarray(small).min(2) >= NEARLY_WHITE
    border = np.ones_like(white)
    border[1:-1, 1:-1] = False
    if white[border].mean() < 0.6:
        return None
    labels, _ = ndimage.label(white)
    joined = np.isin(labels, np.unique(labels[border & white]))
    near = Image.fromarray(np.where(ndimage.binary_dilation(joined), 255, 0).astype(np.uint8))
    near = near.resize(pixels.size, Image.Resampling.BILINEAR)
    ramp = [min(255, max(0, (value - NEARLY_WHITE) * 255 // (WHITE - NEARLY_WHITE))) for value in range(256)]
    bands = pixels.split()
    darkest = ImageChops.darker(ImageChops.darker(bands[0], bands[1]), bands[2]).point(ramp)
    return ImageChops.invert(ImageChops.multiply(near, darkest))


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """What a product is put before: the white it was on, one colour, two, blurred things, boards or cloth."""
    kind = str(rng.choice(BACKGROUNDS))
    if kind == "white":
        return Image.new("RGB", size, (255, 255, 255))
    colours = (rng.integers(20, 245, (8, 1)) + rng.integers(20, 245, (8, 3))) // 2  # rooms are seldom garish
    if kind == "plain":
        grain = colours[0] + rng.integers(-8, 9, (6, 6, 1))
    elif kind == "gradient":
        along = np.add.outer(np.arange(5), np.arange(5) * rng.integers(0, 3))[..., None]
        grain = (colours[0] * (12 - along) + colours[1] * along) // 12
    elif kind == "patches":
        return _patches(rng, colours, size)
    else:
        cells = int(rng.integers(8, 40))
        weave = rng.integers(-40, 41, (cells, cells, 1))
        if rng.uniform() < 0.5:  # boards, cloth: the same along one side
            weave = np.broadcast_to(weave[:1], weave.shape)
        grain = colours[0] + weave
    small = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def _patches(rng: np.random.Generator, colours: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Things out of focus: rectangles and ellipses, drawn small, blurred and enlarged."""
    small = Image.new("RGB", (48, 48), tuple(map(int, colours[0])))
    draw = ImageDraw.Draw(small)
    for number in range(int(rng.integers(4, 14))):
        left, top = (int(value) for value in rng.integers(-10, 44, 2))
        wide, high = (int(value) for value in rng.integers(4, 30, 2))
        shape = draw.ellipse if rng.uniform() < 0.4 else draw.rectangle
        shape((left, top, left + wide, top + high), fill=tuple(map(int, colours[1 + number % 7])))
    small = small.filter(ImageFilter.BoxBlur(float(rng.integers(0, 4)) / 2))
    return small.resize(size, Image.Resampling.BICUBIC)


def _exposed(rng: np.random.Generator, photo: Image.Image) -> np.ndarray:
    """Light, colours, shadow or glare, blur, noise, JPEG."""
    photo = photo.convert("RGB", _colours(rng, photo))
    light = rng.uniform()
    if light < 0.3:
        photo = ImageChops.multiply(photo, ImageChops.invert(_light(rng, photo.size, 110)))
    elif light < 0.45:
        photo = ImageChops.screen(photo, _light(rng, photo.size, 150))
    if rng.uniform() < 0.5:
        photo = photo.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 2.0))))
    if rng.uniform() < 0.5:
        noise = Image.frombytes("RGB", photo.size, rng.bytes(3 * photo.width * photo.height))
        share = float(rng.uniform(0.01, 0.12))  # a standard deviation of 1 to 9 grey levels
        photo = Image.blend(photo, noise, share)
    data = jpeg_bytes(photo, int(rng.integers(40, 96)))
    return np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))


def _colours(rng: np.random.Generator, photo: Image.Image) -> tuple[float, ...]:
    """Brightness, contrast about the mean grey, saturation and colour cast as one matrix (3, 4), row by row."""
    brightness, contrast = rng.uniform(0.6, 1.3, 2)
    saturation = rng.uniform(0.5, 1.4)
    cast = rng.uniform(0.85, 1.15, 3)
    small = np.asarray(photo.resize((8, 8), Image.Resampling.BOX)).reshape(-1, 3)
    mean = sum(float(share) * int(total) / 64 for share, total in zip(GREY, small.sum(0, dtype=np.int64)))
    rows, slope = [], float(contrast)
    for band in range(3):
        gain = float(cast[band] * brightness)
        for other in range(3):
            rows.append(gain * slope * float((1 - saturation) * GREY[other] + saturation * (band == other)))
        rows.append(gain * (1 - slope) * mean)
    return tuple(rows)


def _light(rng: np.random.Generator, size: tuple[int, int], most: int) -> Image.Image:
    """A soft grey field, RGB of 0 … most: an edge across the picture, or a spot."""
    across, down = np.meshgrid(np.arange(16) / 15, np.arange(16) / 15)
    x, y = rng.uniform(0, 1, 2)
    if rng.uniform() < 0.5:
        a, b = rng.uniform(-1, 1, 2)
        field = 0.5 + rng.uniform(1, 6) * (a * (across - x) + b * (down - y))
    else:
        far = (across - x) * (across - x) + (down - y) * (down - y)
        field = 1 - far / rng.uniform(0.02, 0.3)
    values = np.clip(field, 0, 1) * (most * rng.uniform(0.3, 1.0))
    light = Image.fromarray(values.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.merge("RGB", [light] * 3)


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    """Return the image as a JPEG file."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
