"""Each kind of image that real collections hold: decoded rightly, or refused with its reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from features.images import decoding
from features.images.decoding import MAX_PIXELS, decode
from features.images.rgb_pixels import Unreadable
from features.images.sizing import Sizing

RED, GREEN, BLUE, WHITE = (220, 30, 40), (20, 200, 60), (30, 60, 210), (255, 255, 255)


def quarters() -> Image.Image:
    """64 × 48: red, green over blue, white, so that each turn and flip looks different."""
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32], pixels[24:, 32:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def decoded(data: bytes, size: int = 32, resize: str = "squash", **options: object) -> np.ndarray:
    return decode(data, (Sizing(size, resize, **options),))[0]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def corners(pixels: np.ndarray) -> list[tuple]:
    """The colours well inside the four quarters, row by row."""
    height, width = pixels.shape[:2]
    return [
        tuple(int(v) for v in pixels[y, x])
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]


def close(found: list[tuple], expected: list[tuple], tolerance: int = 12) -> bool:
    return np.abs(np.array(found, dtype=int) - np.array(expected, dtype=int)).max() <= tolerance


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats_do_not_need_a_right_name(form):
    options = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    found = decoded(saved(quarters(), form, **options))
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    assert close(corners(found), [RED, GREEN, BLUE, WHITE])


def test_grey_and_bilevel_become_rgb():
    found = decoded(saved(quarters().convert("L"), "PNG"))
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 1] == found[..., 2]).all()
    assert corners(decoded(saved(quarters().convert("1"), "PNG")))[3] == WHITE


def test_palette_with_transparency_lies_over_white():
    image = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    red = image.getpixel((4, 4))
    found = decoded(saved(image, "PNG", transparency=red))
    assert close(corners(found), [WHITE, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(mode):
    image = quarters().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 32, 24))
    image.putalpha(alpha)
    found = corners(decoded(saved(image, "PNG")))
    assert found[0] == WHITE and found[2] != WHITE


def test_half_transparent_black_is_grey():
    found = decoded(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"))
    assert abs(int(found[16, 16, 0]) - 127) <= 1


def test_cmyk_jpeg_as_adobe_writes_it():
    """Full cyan ink is no red: a decoder that forgets the inversion shows the complement."""
    cmyk = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    found = decoded(saved(cmyk, "JPEG", quality=95))
    assert close([tuple(found[16, 16])], [(0, 255, 255)], 20)


def test_sixteen_bit_grey_keeps_its_brightness():
    values = np.full((16, 16), 32768, dtype=np.uint16)
    values[:8] = 65535
    found = decoded(saved(Image.fromarray(values), "PNG"))
    assert abs(int(found[26, 16, 0]) - 128) <= 1 and found[4, 16, 0] == 255


def test_sixteen_bit_rgb_png():
    """Written by hand: Pillow cannot save it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">HHH", 65535, 32768, 0) * 8
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row * 8))
        + chunk(b"IEND", b"")
    )
    assert close([tuple(decoded(data)[16, 16])], [(255, 128, 0)], 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_shows_the_scene_upright(orientation, form):
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = quarters() if undo is None else quarters().transpose(undo)
    data = saved(stored, form, exif=exif_of(orientation), **({"quality": 95} if form == "JPEG" else {}))
    found = decoded(data, 48, "keep")
    assert found.shape == (36, 48, 3)
    assert close(corners(found), [RED, GREEN, BLUE, WHITE])


def test_damaged_exif_leaves_the_pixels_alone():
    data = saved(quarters(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert close(corners(decoded(data)), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(form):
    frames = [quarters(), Image.new("RGB", (64, 48), BLUE)]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    assert close(corners(decoded(data)), [RED, GREEN, BLUE, WHITE], 16)


def test_one_pixel():
    data = saved(Image.new("RGB", (1, 1), RED), "PNG")
    assert (decoded(data) == RED).all()
    assert decoded(data, 32, "keep").shape == (32, 32, 3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "damaged|not an image"),
        (saved(quarters(), "PNG")[:100], "damaged"),
        (saved(quarters().resize((640, 480)), "JPEG")[:3000], "truncated"),
    ],
)
def test_quarantine_says_why(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decoded(data)


def test_a_program_named_as_an_image_is_not_run(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: pytest.fail("Ghostscript was run"))
    with pytest.raises(Unreadable, match="not an image"):
        decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_a_bomb_is_refused_before_it_is_decoded():
    side = int(MAX_PIXELS**0.5) + 1
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    with pytest.raises(Unreadable, match="declared size"):
        decoded(png)


@pytest.mark.parametrize(
    "resize, size, expected",
    [
        ("squash", 40, (40, 40)),
        ("pad", 40, (40, 40)),
        ("keep", 40, (32, 40)),  # 30 rows, brought to the smallest side
        ("keep", 48, (36, 48)),
        ("keep", 500, (48, 64)),  # never enlarges
    ],
)
def test_sizes(resize, size, expected):
    assert decoded(saved(quarters(), "PNG"), size, resize).shape[:2] == expected


def test_keep_without_a_size_halves_until_it_fits():
    data = saved(quarters().resize((640, 480)), "PNG")
    assert decode(data, (Sizing(0, "keep", max_size=200),))[0].shape == (120, 160, 3)
    assert decode(data, (Sizing(0, "keep", max_size=640),))[0].shape == (480, 640, 3)


def test_padding_is_centred_and_of_the_given_colour():
    found = decoded(saved(quarters(), "PNG"), 64, "pad", fill=(1, 2, 3))
    assert (found[:7] == (1, 2, 3)).all() and (found[-7:] == (1, 2, 3)).all()
    assert tuple(found[8 + 12, 16]) == RED


def smooth_jpeg(width: int, height: int, **options: object) -> bytes:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    return saved(small.resize((width, height), Image.Resampling.BICUBIC), "JPEG", quality=95, **options)


def decoded_sizes(monkeypatch, data: bytes, sizing: Sizing) -> list[tuple[int, int]]:
    """The sizes in which the JPEG decoder gave the image."""
    found, turned = [], decoding.as_rgb
    monkeypatch.setattr(decoding, "as_rgb", lambda image: found.append(image.size) or turned(image))
    decode(data, (sizing,))
    return found


@pytest.mark.parametrize(
    "sizing, expected",
    [
        (Sizing(96), (400, 300)),  # an eighth, 200 x 150, would leave less than twice the 96 rows
        (Sizing(64), (200, 150)),
        (Sizing(200, "pad"), (400, 300)),
        (Sizing(200, "keep"), (400, 300)),
        (Sizing(96, scale=2.0), (800, 600)),
        (Sizing(96, crop=0.5), (800, 600)),  # the middle half has twice the 96
        (Sizing(448), (1600, 1200)),
        (Sizing(0, "keep", max_size=400), (800, 600)),
    ],
)
def test_jpegs_are_decoded_at_a_fraction_where_the_size_allows_it(monkeypatch, sizing, expected):
    assert decoded_sizes(monkeypatch, smooth_jpeg(1600, 1200), sizing) == [expected]
    turned = smooth_jpeg(1200, 1600, exif=exif_of(6))
    assert decoded_sizes(monkeypatch, turned, sizing) == [expected[::-1]]


@pytest.mark.parametrize("sizing", [Sizing(96), Sizing(64), Sizing(200, "pad"), Sizing(150, "keep")])
def test_scaled_decoding_differs_from_full_decoding_by_little(monkeypatch, sizing):
    data = smooth_jpeg(1600, 1200)
    scaled = decode(data, (sizing,))[0].astype(int)
    monkeypatch.setattr(decoding, "_draft", lambda *arguments: None)
    full = decode(data, (sizing,))[0].astype(int)
    difference = np.abs(scaled - full)
    assert difference.max() > 0, "nothing was scaled"
    assert difference.mean() < 1 and np.percentile(difference, 99) <= 4


@pytest.mark.parametrize(
    "size, sizing",
    [
        (
            (4099, 4096),
            Sizing(0, "keep", max_size=1024),
        ),  # halved twice: 2049, 1024; its draft has 2050 columns
        ((600, 480), Sizing(500, "keep", scale=0.25)),  # its draft is smaller than 500
        ((1999, 1501), Sizing(160, "keep")),
        ((1999, 1501), Sizing(160, "pad")),
    ],
)
def test_scaled_decoding_leaves_the_size_alone(monkeypatch, size, sizing):
    data = smooth_jpeg(*size)
    assert decoded_sizes(monkeypatch, data, sizing) != [size]
    scaled = decode(data, (sizing,))[0].shape
    monkeypatch.setattr(decoding, "_draft", lambda *arguments: None)
    assert scaled == decode(data, (sizing,))[0].shape


def test_several_sizes_from_one_decoding():
    first, second = decode(saved(quarters(), "PNG"), (Sizing(64), Sizing(64, scale=0.5)))
    assert first.shape == (64, 64, 3) and second.shape == (32, 32, 3)
