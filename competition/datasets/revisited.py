"""The revisited sets ROxford5k and RParis6k: gnd_<name>.pkl (or .json) beside the images of Oxford5k or Paris6k.

From cmp.felk.cvut.cz/revisitop; 70 queries each, which are not in the gallery. Easy: positives easy, junk junk and hard;
medium: positives easy and hard, junk junk; hard: positives hard, junk junk and easy.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from competition.datasets.dataset import Dataset, Truth, boxed_queries, require
from competition.errors import Top7Error
from competition.images import list_images

LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
# what a pickle of numpy arrays, numbers, texts, lists and dicts may name; nothing of this runs a program
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain containers and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: Path) -> object:
    """Read a pickle of numpy arrays and plain containers; Top7Error where it holds or asks for anything else."""
    try:
        with open(path, "rb") as stream:
            return _PlainUnpickler(stream, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise Top7Error(
            f"{path}: refused ({error}): a ground-truth pickle holds arrays, numbers, texts, lists and dicts alone; "
            "download it again from the revisited sets' own page"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Top7Error(f"{path}: not a whole pickle ({reason:.80}): download it again") from None


def load(folder: Path, name: str) -> Dataset:
    """Read images and ground truth below `folder`; Top7Error, one line, for what is missing or wrong."""
    folder, files = Path(folder), (f"gnd_{name}.pkl", f"gnd_{name}.json")
    path = next((path for file in files for path in sorted(folder.rglob(file)) if path.is_file()), None)
    if path is None:
        raise Top7Error(f"{folder}: no ground truth of {name} there: expected a file {' or '.join(files)}")
    entry = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else read_pickle(path)
    gallery_ids, query_ids, gnd = _checked(entry, path)
    order = sorted(range(len(query_ids)), key=query_ids.__getitem__)  # rows are sorted by id, as everywhere
    query_ids, gnd = [query_ids[row] for row in order], [gnd[row] for row in order]
    images = list_images(folder)
    require(dict.fromkeys([*gallery_ids, *query_ids], path.name), images.ids, folder)
    gallery = images.where(frozenset(gallery_ids).__contains__)
    row_of = {image_id: row for row, image_id in enumerate(gallery.ids)}
    boxes = [
        (query, query, tuple(np.asarray(each["bbx"], dtype=float).tolist()))
        for query, each in zip(query_ids, gnd)
    ]

    def rows(each: dict, kinds: tuple[str, ...]) -> frozenset[int]:
        return frozenset(
            row_of[gallery_ids[int(number)]] for kind in kinds for number in np.asarray(each[kind]).ravel()
        )

    truths = {
        level: Truth(tuple(rows(each, good) for each in gnd), tuple(rows(each, bad) for each in gnd))
        for level, (good, bad) in LEVELS.items()
    }
    return Dataset(name, gallery, boxed_queries(images, boxes, str(path)), truths)


def _checked(entry: Any, path: Path) -> tuple[list[str], list[str], list[dict]]:
    try:
        gallery, queries, gnd = list(entry["imlist"]), list(entry["qimlist"]), list(entry["gnd"])
        whole = len(queries) == len(gnd) and all(isinstance(name, str) for name in [*gallery, *queries])
        for each in gnd:
            whole &= np.asarray(each["bbx"]).size == 4
            for kind in ("easy", "hard", "junk"):
                numbers = np.asarray(each[kind], dtype=float).ravel()
                whole &= bool(((numbers >= 0) & (numbers < len(gallery))).all())
    except (TypeError, KeyError, ValueError, IndexError):
        whole = False
    if not whole:
        raise Top7Error(
            f"{path}: not a revisited ground truth: expected imlist, qimlist and gnd, for each query bbx of four numbers "
            "and easy, hard and junk, positions in imlist"
        )
    return gallery, queries, gnd
