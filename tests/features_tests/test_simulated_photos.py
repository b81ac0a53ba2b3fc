"""Simulated photos: the same bytes for the same seed, and pictures that still show the image."""

import hashlib
import io

import numpy as np
import PIL
import pytest
from PIL import Image

from features.images.simulated_photos import (
    PERSPECTIVE,
    _coefficients,
    _product,
    _viewed,
    contact_sheet,
    simulated_photo,
)


def shop_picture(background: int = 255) -> np.ndarray:
    """A striped box on a plain ground, 90 × 120, in whole numbers alone."""
    image = np.full((120, 90, 3), background, dtype=np.uint8)
    down, across = np.mgrid[0:80, 0:50]
    image[20:100, 20:70] = np.stack([(down * 3) % 200, (across * 5) % 210, (down + across) % 190], 2)
    return image


def test_the_bytes_of_the_pinned_pillow():
    """The digest belongs to the Pillow that constraints.txt names, with its libjpeg-turbo; see the module."""
    if PIL.__version__ != "13.0.0":
        pytest.skip(f"the digest was taken with Pillow 13.0.0, this is {PIL.__version__}")
    digest = hashlib.sha256()
    for background in (255, 90):
        for seed in range(40):
            photo = simulated_photo(shop_picture(background), seed)
            digest.update(repr(photo.shape).encode() + photo.tobytes())
    assert digest.hexdigest() == "3be5c030536f1d50aa1d2b3fb755ffac74c11268b4229c536c2bd4858c00a2b1"


def test_a_photo_is_a_function_of_image_and_seed():
    image = shop_picture()
    before = image.copy()
    first = simulated_photo(image, 7)
    np.random.default_rng().normal(size=3)  # no other generator takes part
    assert np.array_equal(simulated_photo(image, 7), first) and np.array_equal(image, before)
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    photos = {simulated_photo(image, seed).tobytes() for seed in range(60)}
    assert len(photos) == 60
    image.flags.writeable = False
    assert np.array_equal(simulated_photo(image, 7), first)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (7, 500)])
@pytest.mark.parametrize("value", [0, 255])
def test_odd_shapes_and_blank_images(shape, value):
    for seed in range(12):
        photo = simulated_photo(np.full((*shape, 3), value, dtype=np.uint8), seed)
        assert min(photo.shape[:2]) >= 8 and photo.shape[2] == 3


def test_a_photo_has_as_many_pixels_as_the_part_that_it_shows():
    for seed in range(200):
        quad, size = _viewed(np.random.default_rng(seed), 200, 300)
        x, y = np.array(quad).T
        shown = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert 0.34 * 60000 < size[0] * size[1] < 1.02 * 60000
        assert 0.8 < (size[0] * size[1] / shown) < 1.35  # corners moved by at most 7.5 % of a side each way
        assert 0.84 < (size[0] / 200) / (size[1] / 300) < 1.16
        assert x.min() > -200 * (0.3 + PERSPECTIVE) and x.max() < 200 * (1.3 + PERSPECTIVE)


def test_the_perspective_sends_corners_to_corners():
    quad = [(3.0, 5.0), (90.0, -4.0), (110.0, 80.0), (-6.0, 70.0)]
    a, b, c, d, e, f, g, h = _coefficients(quad, 40, 30)
    for (x, y), (u, v) in zip([(0, 0), (40, 0), (40, 30), (0, 30)], quad):
        below = g * x + h * y + 1
        assert ((a * x + b * y + c) / below, (d * x + e * y + f) / below) == pytest.approx((u, v))


def test_a_product_on_white_is_found_and_its_white_parts_stay():
    image = shop_picture()
    image[50:70, 35:55] = 255  # a white label, not joined to the border
    mask = np.asarray(_product(Image.fromarray(image)))
    assert (mask[:16] == 0).all() and (mask[:, :16] == 0).all()
    assert (mask[24:96, 24:66] == 255).all()
    assert _product(Image.fromarray(shop_picture(90))) is None


def test_photos_still_look_like_their_image():
    """By the mean colour of a coarse grid: a photo is nearer to its own image than to others, mostly."""
    rng = np.random.default_rng(0)
    images = [
        np.asarray(Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8)).resize((96, 96)))
        for _ in range(20)
    ]

    def coarse(image):
        grid = np.asarray(Image.fromarray(image).resize((3, 3), Image.Resampling.BOX)).astype(float)
        both = [side - side.mean() for side in (grid, grid[:, ::-1])]  # half of the photos are mirrored
        return [side / np.linalg.norm(side) for side in both]

    known = [coarse(image)[0] for image in images]
    right = 0
    for row, image in enumerate(images):
        for seed in range(5):
            views = coarse(simulated_photo(image, 100 * row + seed))
            right += int(np.argmax([max((view * one).sum() for view in views) for one in known]) == row)
    assert right >= 80  # of 100; chance is 5


def test_the_contact_sheet_shows_originals_at_the_left():
    image = np.full((60, 60, 3), (200, 30, 40), dtype=np.uint8)
    sheet = Image.open(io.BytesIO(contact_sheet([image, image], [[image] * 2, [image]], tile=40)))
    assert sheet.format == "JPEG" and sheet.size == (120, 80)
    assert np.abs(np.asarray(sheet)[20, 20].astype(int) - (200, 30, 40)).max() < 12
