"""Any set of images in a folder per class: labels are the folders, one image of each class is drawn by seed as query."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from competition.datasets.dataset import Dataset, Truth
from competition.errors import Top7Error
from competition.images import list_images

SEED = 0  # of the queries drawn


def load(folder: Path, name: str) -> Dataset:
    """Draw one query a class of two or more images; it leaves the gallery, which holds all other images."""
    images = list_images(folder, ids="path")
    classes: dict[str, list[int]] = {}
    for row, image_id in enumerate(images.ids):
        classes.setdefault(image_id.rpartition("/")[0], []).append(row)
    drawn = {
        label: int(np.random.default_rng([SEED, number]).choice(rows))
        for number, (label, rows) in enumerate(classes.items())
        if len(rows) > 1
    }
    if not drawn or len(classes) < 2:
        raise Top7Error(
            f"{folder}: {len(classes)} folders with images, {len(drawn)} of them with two or more: expected a folder per "
            "class, at least two classes, and one with two images"
        )
    heads = set(drawn.values())
    gallery = images.rows(row for row in range(len(images)) if row not in heads)
    place = {image_id: row for row, image_id in enumerate(gallery.ids)}
    positives = tuple(
        frozenset(place[images.ids[row]] for row in classes[label] if row != head)
        for label, head in drawn.items()
    )
    truth = Truth(positives, (frozenset(),) * len(positives))
    return Dataset(name, gallery, images.rows(drawn.values()), {"all": truth}, "MAP@7")
