"""The embedded competition as files: gallery, validation, test, labels in the real format, a configuration.

folder/gallery/0001_180889/n0001_0000123.jpg …   catalogue pictures and distractors, ids in no order
folder/val/v000001.jpg …, folder/val.csv         user photos with their labels
folder/test/t000001.jpg …                        user photos
folder/held_back/test.csv                        the truth of the test queries; no configuration names it
folder/config.toml, folder/competition.json      what to run; what drew it
"""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from joblib import Parallel, delayed

from competition.atomic import sync_folder, write_bytes, write_json
from competition.errors import Top7Error
from competition.mini.catalogue import draw_catalogue
from competition.mini.photos import draw_photo
from competition.mini.products import Product, draw_family, draw_product
from competition.progress import Progress

VERSION = 1  # raise when the same seed draws other bytes
STREAM = 20_201_016  # first word of every seed here; the training of the backbone starts with another
CATALOGUE_QUALITY = 88
FOLDERS = ("0001_180889", "0002_145217", "0003_93804")

CONFIGURATION = """\
# The embedded mini competition (seed {seed}). Copy this file for your own images: the README names every key.
[competition]
name       = "mini"
gallery    = "gallery"
validation = "val"
labels     = "val.csv"
test       = "test"
top_k      = 7

[[backbone]]
model      = "top7_vgg16_quarter"     # trained on other products of the same shop; ships with top7
image_size = 160
layers     = ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"]
pooling    = ["fcrow", "spoc", "gem", "rmac", "spoc-centre"]   # the study chooses one
parts      = [
    {{ layer = "conv5_3", counts = [25, 50], dims = [32, 64, 128], exponents = [0.5, 1.0] }},
    {{ layer = "conv4_3", counts = [25, 50], dims = [32, 64, 128], exponents = [0.5, 1.0] }},
]

[simulate]                            # photos made of gallery images
images     = 200

[tuning]
trials     = 200
region     = "similarity"
private    = 0.3
"""


@dataclass(frozen=True)
class Sizes:
    """How many of what; the defaults are the competition's.

    Each family gives `members` products that are asked for and `lookalikes` distractors; `strangers` are distractors of
    families of their own.
    """

    families: int = 40
    members: int = 4
    lookalikes: int = 4
    strangers: int = 150
    queries: int = 100


@dataclass(frozen=True)
class Drawing:
    """One picture to draw: `name` relative to the folder, without its ending; `seed` of its own rng."""

    name: str
    product: Product
    photo: bool
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Contest:
    """All pictures and the correct gallery ids of every query."""

    pictures: tuple[Drawing, ...]
    validation: dict[str, tuple[str, ...]]
    test: dict[str, tuple[str, ...]]


def plan_contest(seed: int, sizes: Sizes = Sizes()) -> Contest:
    """Decide products, ids and queries; draws nothing. One to three gallery pictures a product, one a distractor."""
    rng = np.random.default_rng([STREAM, seed, 0])
    products: list[Product] = []  # those that are asked for
    shown: list[Product] = []  # one a gallery picture
    for _ in range(sizes.families):
        family = draw_family(rng, sizes.members + sizes.lookalikes)
        products += family[: sizes.members]
        for product in family[: sizes.members]:
            shown += [product] * int(rng.choice((1, 2, 3), p=(0.4, 0.35, 0.25)))
        shown += family[sizes.members :]
    shown += [draw_product(rng) for _ in range(sizes.strangers)]
    order = rng.permutation(len(shown))
    ids_of: dict[Product, list[str]] = {}
    pictures = []
    for place, index in enumerate(order):
        folder = FOLDERS[place * len(FOLDERS) // len(order)]
        gallery_id = f"n{folder[:4]}_{place + 1:07d}"
        seeds = (STREAM, seed, 1, place)
        pictures.append(Drawing(f"gallery/{folder}/{gallery_id}", shown[index], False, seeds))
        ids_of.setdefault(shown[index], []).append(gallery_id)
    asked = rng.permutation(len(products))
    queries = min(sizes.queries, len(products))
    validation: dict[str, tuple[str, ...]] = {}
    test: dict[str, tuple[str, ...]] = {}
    splits = (("val/v", validation, asked[:queries]), ("test/t", test, asked[len(asked) - queries :]))
    for stream, (prefix, truth, chosen) in enumerate(splits, start=2):
        for place, number in enumerate(rng.permutation(chosen)):
            name, product = f"{prefix}{place + 1:06d}", products[number]
            pictures.append(Drawing(name, product, True, (STREAM, seed, stream, place)))
            truth[name.rpartition("/")[2]] = tuple(ids_of[product])
    return Contest(tuple(pictures), validation, test)


def draw(picture: Drawing) -> bytes:
    """Return the picture as the bytes of a JPEG file; they depend on the picture's own seed alone."""
    rng = np.random.default_rng(picture.seed)
    if picture.photo:
        image, quality = draw_photo(picture.product, rng)
    else:
        image, quality = draw_catalogue(picture.product, rng), CATALOGUE_QUALITY
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def label_bytes(truth: dict[str, tuple[str, ...]]) -> bytes:
    """Return a label file as the real competition's: a byte-order mark, a header, ragged rows."""
    rows = [("Validation Image ID", "Training Image ID"), *((query, *ids) for query, ids in truth.items())]
    return "".join(",".join(row) + "\n" for row in rows).encode("utf-8-sig")


def build(folder: Path | str, *, seed: int = 0, processes: int | None = None, sizes: Sizes = Sizes()) -> Path:
    """Draw the competition into `folder` and return its config.toml; one that is there already is kept.

    Drawn beside it and renamed when complete; the same seed gives the same bytes, however many processes draw.
    """
    folder = Path(folder)
    made_from = {"version": VERSION, "seed": seed, "sizes": vars(sizes)}
    if _made_from(folder) == made_from:
        return folder / "config.toml"
    if folder.exists() and _made_from(folder) is None:
        raise Top7Error(
            f"{folder}: holds files that top7 did not draw: move them away, or choose another --work"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    drawing = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # the system drops it when the process dies
        if _made_from(folder) != made_from:
            shutil.rmtree(drawing, ignore_errors=True)  # half drawn by a process that was killed
            contest = plan_contest(seed, sizes)
            pool = Parallel(processes or min(os.cpu_count() or 1, 8), return_as="generator")
            drawn = pool(delayed(draw)(picture) for picture in contest.pictures)
            named = zip(contest.pictures, drawn)
            for picture, data in Progress(named, total=len(contest.pictures), desc="drawing", unit="picture"):
                path = drawing / f"{picture.name}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            write_bytes(drawing / "val.csv", label_bytes(contest.validation))
            write_bytes(drawing / "held_back" / "test.csv", label_bytes(contest.test))
            write_bytes(drawing / "config.toml", CONFIGURATION.format(seed=seed).encode())
            write_json(drawing / "competition.json", made_from)
            shutil.rmtree(folder, ignore_errors=True)  # drawn by another version or seed
            os.replace(drawing, folder)
            sync_folder(folder.parent)
    return folder / "config.toml"


def _made_from(folder: Path) -> object:
    try:
        return json.loads((folder / "competition.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
