"""`doctor`: what of a data set or a configuration is missing, misnamed, corrupt or of the wrong size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from competition.configuration import SMALLEST_SIDE_PX, SPLITS, Configuration
from competition.configured import split_images, validation_labels
from competition.datasets import OFFICIAL, below, load_dataset
from competition.datasets.dataset import image_size
from competition.errors import Top7Error
from competition.images import ImageSet, list_images
from competition.progress import Progress
from features.dumps.layout import dumps_folder
from features.extraction.external import external_dumps
from features.extraction.sample import SplitImages
from features.images.decode_ahead import read_ahead
from features.images.sizing import Sizing

MOST = 20_000  # images of a folder that are all decoded; of more, so many drawn by seed
HALF = tuple(
    ".part .crdownload .download .tmp .tgz .tar .gz .zip".split()
)  # half downloaded, or not unpacked
SHOWN_LINES = 10


def examine_data(folder: Path) -> tuple[list[str], list[str]]:
    """Return (what was found, what is wrong) of every data set below `folder`, a line each."""
    found, faults = [], []
    for name, home in below(folder).items():
        try:
            images = list_images(home, ids="path")
        except Top7Error as error:
            faults.append(str(error))
            continue
        found.append(f"{home}: {name}, {len(images)} images")
        gallery, queries = OFFICIAL.get(name, (0, 0))  # of the revisited sets: with their queries
        missing = gallery + (queries if name.startswith("r") else 0) - len(images)
        if missing > 0:
            faults.append(
                f"{home}: {len(images)} images, {name} has {len(images) + missing}: {missing} are missing: unpack or "
                "download them again"
            )
        half = [path for path in images.others if path.lower().endswith(HALF)]
        faults += [f"{path}: half downloaded, or not unpacked" for path in half]
        try:
            dataset = load_dataset(name, home)
            found.append(f"{home}: {len(dataset.gallery)} gallery images, {len(dataset.queries)} queries")
        except Top7Error as error:
            faults.append(str(error))
        faults += _damaged(images)
    return found, faults


def examine_configuration(configuration: Configuration) -> tuple[list[str], list[str]]:
    """Return (what was found, what is wrong) of a configuration's images, labels, weights and external files."""
    competition, found, faults, images = configuration.competition, [], [], {}
    for split in SPLITS:
        if getattr(competition, split) is None:
            continue
        try:
            images[split] = split_images(configuration, split)
            found.append(f"{split}: {len(images[split])} images")
        except Top7Error as error:
            faults.append(str(error))
    if competition.labelled and {"gallery", "validation"} <= set(images):
        try:
            labels = validation_labels(
                configuration, images["validation"].ids, frozenset(images["gallery"].ids)
            )
            found.append(f"labels: {len(labels)} queries, {sum(map(len, labels.values()))} correct images")
        except Top7Error as error:
            faults.append(str(error))
    for backbone in configuration.backbones:
        if isinstance(backbone.weights, Path) and not backbone.weights.is_file():
            faults.append(f"[[backbone]] {backbone.name}: weights: {backbone.weights} is not there")
    for external in configuration.externals:
        for split in images:
            try:
                of = SplitImages(images[split], dumps_folder(configuration, split))
                external_dumps([external], {split: of})
            except Top7Error as error:
                faults.append(str(error))
    for split, listed in images.items():
        faults += [f"{split}: {line}" for line in _damaged(listed)]
    return found, faults


def _damaged(images: ImageSet) -> list[str]:
    """Images that cannot be decoded or are too small, the first few by name, and how many."""
    rows = np.arange(len(images))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    corrupt, small = [], []
    pictures = read_ahead(images, rows, (Sizing(64),), workers=os.cpu_count() or 1, ahead=64)
    for picture in Progress(pictures, total=len(rows), desc="decode", unit="img", leave=False):
        path = images.paths[picture.row]
        if picture.pixels is None:
            corrupt.append(f"{path}: {picture.reason}")
        elif (size := image_size(path)) is not None and min(size) < SMALLEST_SIDE_PX:
            small.append(f"{path}: {size[0]} × {size[1]} pixels, a network wants {SMALLEST_SIDE_PX} at least")
    of = "" if len(rows) == len(images) else f" of {len(rows)} drawn"
    faults = []
    for kind, lines in ((f"cannot be decoded{of}", corrupt), (f"are very small{of}", small)):
        faults += lines[:SHOWN_LINES]
        if len(lines) > SHOWN_LINES:
            faults.append(f"{len(lines)} images {kind}, {len(lines) - SHOWN_LINES} more than are listed here")
    return faults
