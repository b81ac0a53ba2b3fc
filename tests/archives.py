"""Tiny made-up archives of the papers' data sets, each in its original layout, with the oddities that real ones have."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 64


def draw(path: Path, seed: int, size: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> None:
    """A picture whose colours and edges come from `seed`; pictures of one tens digit look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed // 10).integers(0, 255, (4, 4, 3))
    noise = np.random.default_rng(seed).normal(0, 12, (4, 4, 3))
    pixels = np.clip(coarse + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).save(path, "JPEG", quality=92)


def oxford5k(folder: Path, prefix: str = "oxc1_") -> Path:
    """12 buildings' images (one .JPG, one corrupt), 2 queries; lists with CRLF, blanks, a name twice and junk."""
    for number in range(12):
        extension = ".JPG" if number == 3 else ".jpg"
        draw(folder / "images" / f"hall_{number:06d}{extension}", 10 * (number % 3) + number)
    (folder / "images" / "hall_000011.jpg").write_bytes(b"cut off")
    lists = {
        "hall_1": ("hall_000000", (8.4, 8.0, 56.0, 60.0), ([0, 3, 3], [6], [9])),
        "hall_2": ("hall_000001", (0.0, 0.0, 64.0, 64.0), ([1, 4], [7], [10, 2])),
    }
    (folder / "gt").mkdir()
    for query, (image, box, kinds) in lists.items():
        (folder / "gt" / f"{query}_query.txt").write_text(
            f"{prefix}{image} {' '.join(map(str, box))}\r\n", newline=""
        )
        for kind, rows in zip(("good", "ok", "junk"), kinds):
            text = "".join(f"hall_{row:06d}\r\n" for row in rows) + "\r\n"
            (folder / "gt" / f"{query}_{kind}.txt").write_text(text, newline="")
    return folder


def paris6k(folder: Path) -> Path:
    """As Oxford's, in the names and sub-folders of Paris, one image corrupt as in the original; a query without junk."""
    for number in range(9):
        extension = ".JPG" if number == 4 else ".jpg"
        draw(
            folder / "paris" / "louvre" / f"paris_louvre_{number:06d}{extension}", 10 * (number % 3) + number
        )
    (folder / "paris" / "louvre" / "paris_louvre_000008.jpg").write_bytes(b"\xff\xd8 corrupt")
    (folder / "louvre_1_query.txt").write_text("paris_louvre_000000 4 4 60 60\r\n", newline="")
    for kind, rows in (("good", [0, 3]), ("ok", [6]), ("junk", [])):
        text = "".join(f"paris_louvre_{row:06d}\r\n" for row in rows)
        (folder / f"louvre_1_{kind}.txt").write_text(text, newline="")
    return folder


def revisited(folder: Path, name: str) -> Path:
    """9 gallery images (one .JPG, one corrupt), 2 queries outside it, one without hard positives; a pickle of numpy
    arrays and lists."""
    stem = "hall" if name == "roxford5k" else "paris_louvre"
    for number in range(11):
        extension = ".JPG" if number == 4 else ".jpg"
        draw(folder / "jpg" / f"{stem}_{number:06d}{extension}", 10 * (number % 3) + number)
    (folder / "jpg" / f"{stem}_000008.jpg").write_bytes(b"cut off")
    gnd = [
        {
            "bbx": np.array([4.0, 4.0, 60.0, 60.0]),
            "easy": np.array([0, 3]),
            "hard": np.array([6]),
            "junk": [1],
        },
        {"bbx": [0.5, 0.5, 63.5, 63.5], "easy": [1], "hard": [], "junk": [2, 5]},
    ]
    entry = {
        "imlist": [f"{stem}_{row:06d}" for row in range(9)],
        "qimlist": [f"{stem}_000009", f"{stem}_000010"],
        "gnd": gnd,
    }
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(entry, protocol=2))
    return folder


def holidays(folder: Path) -> Path:
    """3 groups, 8 images, one of them .JPG, two on their side; beside them what an archive leaves about."""
    for group, members in ((1000, 3), (1001, 2), (1002, 3)):
        for number in range(members):
            extension = ".JPG" if (group, number) == (1002, 1) else ".jpg"
            draw(folder / "jpg" / f"{group}{number:02d}{extension}", 10 * (group % 10) + number)
    (folder / "jpg" / "Thumbs.db").write_bytes(b"of another program")
    (folder / "rotate.yaml").write_text('{\n"100001.jpg": 90,\n"100200.jpg": 270\n}\n')
    return folder


def perfect500k(folder: Path, year: int) -> Path:
    """A gallery in sub-folders with an empty file, 3 photos, ragged labels with a BOM, a header and CRLF."""
    name = (lambda n: f"n0001_{n:07d}") if year == 2018 else (lambda n: f"n{n:07d}")
    for number in range(10):
        draw(folder / f"000{number % 2}_180889" / f"{name(number)}.jpg", 10 * (number % 3) + number)
    (folder / "0001_180889" / f"{name(7)}.jpg").write_bytes(b"")
    for number in range(3):
        draw(folder / "validation" / f"v00000{number + 1}.JPEG", 10 * number + 9)
    rows = [
        "Validation Image ID,Training Image ID",
        f"v000001,{name(0)},{name(3)},{name(6)},{name(9)}",
        f"v000002,{name(1)}",
        f"v000003,{name(2)},{name(5)}",
    ]
    (folder / f"val_{year}.csv").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n").encode("utf-8"))
    return folder


def classes(folder: Path) -> Path:
    """3 classes; one has a single image, names meet between folders, one ends in .JPG."""
    for label, members in (("a", 4), ("b", 3), ("c", 1)):
        for number in range(members):
            extension = ".JPG" if (label, number) == ("b", 2) else ".jpg"
            draw(folder / label / f"{number}{extension}", 10 * ord(label) + number)
    return folder


ARCHIVES = {
    "oxford5k": oxford5k,
    "paris6k": paris6k,
    "roxford5k": lambda folder: revisited(folder, "roxford5k"),
    "rparis6k": lambda folder: revisited(folder, "rparis6k"),
    "holidays": holidays,
    "perfect500k-2018": lambda folder: perfect500k(folder, 2018),
    "perfect500k-2020": lambda folder: perfect500k(folder, 2020),
    "folders": classes,
}
