"""What a configuration names: the images of each split and the labels, in folders or a data set of its own format."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from competition.configuration import SPLITS, Configuration
from competition.datasets import Dataset, load_dataset
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, list_images
from competition.labels import read_labels
from competition.once import once

Labels = dict[str, tuple[str, ...]]  # query id -> gallery ids


def data_set(configuration: Configuration) -> Dataset | None:
    """The data set of the papers that a configuration's `format` names; None where it names none."""
    competition = configuration.competition
    if competition.format is None:
        return None
    return load_dataset(competition.format, competition.gallery, competition.distractors)


def split_images(configuration: Configuration, split: str) -> ImageSet:
    """The images of "gallery", "validation" or "test" of a configuration; its file is named in errors."""
    competition = configuration.competition
    folder = getattr(competition, split)
    if folder is None:
        raise ConfigurationError(
            f"{configuration.path}: [competition] has no {split}: add {split} = … with the folder "
            "of its images"
        )
    if split != "test" and (found := data_set(configuration)) is not None:
        return found.gallery if split == "gallery" else found.queries
    blanks = split != "gallery" or competition.submission != "kaggle"
    origin = f"{configuration.path}: [competition] {split}"
    return once(list_images, Path(folder), ids=competition.ids, origin=origin, blanks=blanks)


def configured_images(configuration: Configuration, splits: Iterable[str] = SPLITS) -> dict[str, ImageSet]:
    """The images of the given splits that the configuration has; Top7Error with all that is wrong in any of them.

    Missing folders and a missing label file are named before anything is listed.
    """
    competition = configuration.competition
    wanted = [split for split in SPLITS if split in splits and getattr(competition, split) is not None]
    keys = [*wanted, *(["labels"] if competition.labels not in (None, "folders") else [])]
    lost = [key for key in keys if not os.path.exists(getattr(competition, key))]
    if lost:
        missing = ", ".join(f"{key} = {getattr(competition, key)}" for key in lost)
        verb = "does not exist" if len(lost) == 1 else "do not exist"
        raise Top7Error(f"{configuration.path}: [competition] {missing} {verb}: correct the path")
    found, faults = {}, []
    for split in wanted:
        try:
            found[split] = split_images(configuration, split)
        except Top7Error as error:
            faults.append(str(error))
    if faults:
        raise Top7Error("; ".join(faults))
    return found


def validation_labels(
    configuration: Configuration, query_ids: Sequence[str], gallery_ids: Collection[str]
) -> Labels:
    """The labels of a configuration's validation queries; ConfigurationError where it names no label file.

    Of a data set in its own format: its positives, all of them (revisited: easy and hard); a list may hold
    its junk.
    """
    if (found := data_set(configuration)) is not None:
        return found.labels()
    path = configuration.competition.labels
    if path is None:
        raise ConfigurationError(
            f"{configuration.path}: [competition] has no labels: add labels = … with the label "
            "file of the validation queries"
        )
    if path != "folders" and not Path(path).exists():
        raise Top7Error(f"{configuration.path}: [competition] labels: {path} does not exist")
    return read_labels(path, query_ids=query_ids, gallery_ids=gallery_ids)


def labelled_validation(
    configuration: Configuration, gallery_ids: Collection[str]
) -> tuple[tuple[str, ...], Labels, Labels]:
    """The ids of the validation queries; the labels of each; and what a whole-list mAP takes out of its list.

    The last is empty but for a data set in its own format. Errors: see `validation_labels`.
    """
    ids, found = split_images(configuration, "validation").ids, data_set(configuration)
    labels = validation_labels(configuration, ids, gallery_ids)
    return ids, labels, {} if found is None else found.junk()
