"""Query boxes are cropped and images turned before they are described, and a changed box is another content."""

import io

import numpy as np
import pytest
from PIL import Image

from competition.images import Region
from features.images.decode_ahead import view_hash
from features.images.decoding import decode
from features.images.rgb_pixels import Unreadable
from features.images.sizing import Sizing

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 64, 3), dtype=np.uint8)
WHOLE = (Sizing(0, "keep", 1024),)


def png():
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


def test_a_box_is_cut_out_with_its_edges_rounded():
    (found,) = decode(png(), WHOLE, Region((2.4, 3.6, 50.5, 39.0)))
    assert np.array_equal(found, PIXELS[4:39, 2:50])


def test_a_box_is_in_pixels_of_the_file_also_where_a_jpeg_could_be_decoded_smaller():
    flat = np.zeros((400, 400, 3), dtype=np.uint8)
    flat[200:, 200:] = 255
    stream = io.BytesIO()
    Image.fromarray(flat).save(stream, "JPEG", quality=95)
    (found,) = decode(stream.getvalue(), (Sizing(32),), Region((216, 216, 392, 392)))
    assert found.shape == (32, 32, 3) and found.min() > 250


def test_turns_are_counter_clockwise():
    for turns in range(4):
        (found,) = decode(png(), WHOLE, Region(turns=turns))
        assert np.array_equal(found, np.rot90(PIXELS, turns))


def test_a_box_outside_its_image_is_unreadable():
    for box in ((0, 0, 70, 20), (10, 10, 10, 20), (-5, 0, 20, 20), (64, 0, 65, 20)):
        with pytest.raises(Unreadable, match="is not inside its 64 × 40 pixels"):
            decode(png(), WHOLE, Region(box))
    (found,) = decode(png(), WHOLE, Region((0.0, 0.0, 64.6, 40.4)))  # one pixel more, as in Oxford's files
    assert found.shape == (40, 64, 3)


def test_a_changed_box_is_another_content():
    hashes = {
        view_hash(bytes(32), view) for view in (None, Region(), Region((1, 2, 3, 4)), Region(turns=1), 7)
    }
    assert len(hashes) == 5
