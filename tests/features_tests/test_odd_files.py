"""Damaged, hostile and special files: refused by name, without a process, without waiting, within bounds."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from competition.images import list_images
from features.images import decode_ahead, decoding, rgb_pixels
from features.images.decode_ahead import content_hash, file_stamp, read_picture
from features.images.decoding import FORMATS, Budget, decode
from features.images.rgb_pixels import Unreadable
from features.images.sizing import Sizing

SIZING = (Sizing(0, "keep"),)
STARTS = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "os.spawn", "os.startfile")
watched: list[list[str]] = []


def _watch(event: str, arguments: tuple) -> None:
    if watched and event in STARTS:
        watched[-1].append(event)


sys.addaudithook(_watch)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, depth: int, colour: int, row: bytes, *chunks: bytes) -> bytes:
    """One row, written by hand."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + rows + chunk(b"IEND", b"")


def in_iptc(data: bytes) -> bytes:
    """An IPTC file that holds `data` as its image, which Pillow opens with whatever format fits."""

    def field(record: int, number: int, value: bytes) -> bytes:
        return b"\x1c" + bytes([record, number]) + struct.pack(">H", len(value)) + value

    head = field(3, 60, b"\1\0") + field(3, 20, b"\0\x10") + field(3, 30, b"\0\x10") + field(3, 120, b"\5")
    return head + field(8, 10, data)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"


def zoo() -> dict[str, bytes]:
    """A file of every format that Pillow writes, those that others are packed in, and programs."""
    found = {"eps.eps": EPS, "iptc": in_iptc(EPS), "pdf": b"%PDF-1.4\n", "ps": b"%!PS\nshowpage\n"}
    found["wmf"] = b"\xd7\xcd\xc6\x9a\0\0" + bytes(40)
    Image.init()
    for form in sorted(Image.SAVE):
        try:
            found[form] = saved(noise().convert("L") if form in ("XBM", "MSP") else noise(), form)
        except Exception:  # formats that want another mode or a program of their own
            continue
    found |= {f"{form} in IPTC": in_iptc(data) for form, data in found.items() if len(data) < 30_000}
    return found


def test_no_file_of_a_zoo_starts_a_process():
    animals, refused = zoo(), []
    started: list[str] = []
    watched.append(started)
    try:
        for name, data in animals.items():
            try:
                decode(data, SIZING)
            except Unreadable:
                refused.append(name)
    finally:
        watched.pop()
    assert len(animals) > 30 and not started
    assert set(animals) - set(refused) <= set(FORMATS) | {"MPO", "DIB"}
    assert {"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "MPO", "PPM"} & set(refused) == set()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    found = bytearray(data)
    kind, place = rng.integers(4), int(rng.integers(40, len(data)))
    if kind == 0:
        return bytes(found[:place])
    if kind == 1:
        found[place:] = bytes(len(data) - place)
    elif kind == 2:
        found[place:] = rng.bytes(len(data) - place)
    else:
        for where in rng.integers(40, len(data), 8):
            found[where] ^= 1 << rng.integers(8)
    return bytes(found)


@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "QOI", "JPEG2000"]
)
def test_what_pillow_refuses_is_unreadable_here(form):
    data, rng = saved(noise(), form), np.random.default_rng(1)
    refused = 0
    for _ in range(40):
        damaged = mutated(data, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(damaged)) as image:
                    image.load()
            except Exception:
                refused += 1
                with pytest.raises(Unreadable):
                    decode(damaged, SIZING)
    assert refused > 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation):
    undo = [None, None, *(Image.Transpose(t) for t in (0, 3, 1, 5, 2, 6, 4))][orientation]
    image = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image if undo is None else image.transpose(undo), "TIFF", exif=exif)
    assert (decode(data, SIZING)[0] == np.asarray(image)).all()


@pytest.mark.parametrize(
    "width, depth, colour, row, transparent",
    [
        (2, 16, 0, struct.pack(">HH", 300, 40_000), struct.pack(">H", 300)),
        (4, 2, 0, bytes([0b01101101]), struct.pack(">H", 1)),
        (2, 4, 0, bytes([0x3A]), struct.pack(">H", 3)),
        (
            2,
            16,
            2,
            struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0),
            struct.pack(">3H", 0x1234, 0x5678, 0x9ABC),
        ),
    ],
)
def test_the_transparent_colour_of_a_png_is_white_at_any_depth(width, depth, colour, row, transparent):
    pixels = decode(png(width, depth, colour, row, chunk(b"tRNS", transparent)), SIZING)[0]
    middle, left = 15, (32 - width) // 2  # padded to 32 × 32
    assert (pixels[middle, left] == 255).all() and (pixels[middle, left + 1] < 255).all()


def test_large_texts_and_profiles_of_a_png_are_read_and_larger_ones_named():
    def with_text(megabytes: int) -> bytes:
        text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (megabytes << 20)))
        profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"x" * (3 << 20)))
        return png(2, 8, 0, b"\x80\x80", profile, text)

    assert decode(with_text(5), SIZING)[0].shape == (32, 32, 3)
    with pytest.raises(Unreadable, match="16 MB of text"):
        decode(with_text(20), SIZING)


def scans_of(data: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_and_markers_in_its_metadata_are_not_counted():
    data = saved(noise(), "JPEG", progressive=True)
    decode(data, SIZING)
    with pytest.raises(Unreadable, match="a JPEG of 2..  *scans"):
        decode(scans_of(data, 200), SIZING)
    decode(saved(noise(), "JPEG", comment=b"\xff\xda" * 200), SIZING)


def test_decoding_stops_after_its_time(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_DECODING_S", -1.0)
    with pytest.raises(Unreadable, match="took more than"):
        decode(saved(noise(), "PNG"), SIZING)


def test_large_images_in_bands_have_the_same_pixels(monkeypatch):
    rng = np.random.default_rng(2)
    rgba = Image.fromarray(rng.integers(0, 256, (64, 48, 4), dtype=np.uint8))
    grey = Image.fromarray(rng.integers(0, 65536, (64, 48), dtype=np.uint16))
    files = [saved(rgba, "PNG"), saved(grey, "PNG"), saved(noise("CMYK"), "TIFF")]
    files.append(saved(noise("P"), "PNG", transparency=3))
    whole = [decode(data, SIZING)[0] for data in files]
    monkeypatch.setattr(rgb_pixels, "BAND_PIXELS", 48 * 5)
    assert all((decode(data, SIZING)[0] == pixels).all() for data, pixels in zip(files, whole))


def test_images_under_way_share_one_budget(monkeypatch):
    """Four threads, room for two images: never more than two are being loaded."""
    data = saved(noise(), "PNG")
    monkeypatch.setattr(decoding, "DECODING", Budget(2 * 96 * 64 * decoding.OTHER_PIXEL_BYTES))
    inside, most, lock, together = [0], [0], threading.Lock(), threading.Barrier(2)
    loaded = Image.Image.load

    def rgb(image: Image.Image) -> Image.Image:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        together.wait(10)  # with one at a time nothing would go on
        with lock:
            inside[0] -= 1
        loaded(image)
        return image

    monkeypatch.setattr(decoding, "as_rgb", rgb)
    threads = [threading.Thread(target=decode, args=(data, SIZING)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most[0] == 2


def test_an_image_larger_than_the_budget_is_refused(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_DECODING_BYTES", 10_000)
    with pytest.raises(Unreadable, match="declared size: decoding would take"):
        decode(saved(noise(), "PNG"), SIZING)


@pytest.fixture
def special(tmp_path):
    """A folder with a FIFO, a link to a device, to /proc, to itself, a sparse file, and one image."""
    (tmp_path / "good.jpg").write_bytes(saved(noise(), "JPEG"))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    with open(tmp_path / "sparse.jpg", "wb") as stream:
        stream.truncate(20 << 30)
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_special_files_are_unreadable_by_name_and_nothing_waits(special):
    images = list_images(special)
    found = {name: read_picture(row, images.paths[row], SIZING) for row, name in enumerate(images.ids)}
    assert found.pop("good").reason is None
    reasons = {name: picture.reason for name, picture in found.items()}
    assert all(picture.pixels is None for picture in found.values())
    assert "not a regular file" in reasons["pipe"] and "not a regular file" in reasons["endless"]
    assert "20480 MB" in reasons["sparse"] and "256 MB" in reasons["sparse"]
    assert "symbolic links" in reasons["itself"]
    for name, picture in found.items():  # the next run must find them unchanged
        path = os.fspath(special / f"{name}.jpg")
        assert file_stamp(path) == (picture.size_bytes, picture.mtime_ns)
        assert content_hash(path) == picture.sha256


def test_a_file_is_read_no_further_than_its_size(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(saved(noise(), "PNG"))
    monkeypatch.setattr(decode_ahead, "MAX_FILE_BYTES", path.stat().st_size)
    assert read_picture(0, path, SIZING).reason is None
    monkeypatch.setattr(decode_ahead, "MAX_FILE_BYTES", path.stat().st_size - 1)
    assert "an image file may have" in read_picture(0, path, SIZING).reason
