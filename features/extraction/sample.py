"""Which images an extraction describes, and in which folders: all of a split, or of the gallery a seeded sample.

`extract --limit` takes a sample of the gallery that holds every labelled positive. Its dumps lie beside the whole
gallery's; commands use them until the whole gallery has been extracted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from competition.configuration import SIMULATED, SPLITS, Configuration
from competition.configured import configured_images, split_images, validation_labels
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, sample_images
from competition.messages import log
from competition.simulated_split import simulated_images
from features.dumps import beside
from features.dumps.disk import Disk
from features.dumps.layout import (
    extracted_dumps,
    sample_folder,
    sample_record,
    sampled_ids,
    whole_folder,
)

DESCRIBED = (*SPLITS, SIMULATED)


@dataclass(frozen=True)
class SplitImages:
    """Images to describe and the folder of their dumps.

    source: where the images lie, as the configuration has it; sampled: whether they are of a sample of the gallery.
    """

    images: ImageSet
    folder: Path
    source: object = None
    sampled: bool = False


def images_to_describe(
    configuration: Configuration, splits: Sequence[str], limit: int | None
) -> tuple[dict[str, SplitImages], ImageSet | None]:
    """The image sets of the splits that the configuration has, by split, and all of the gallery, if it is among them."""
    for split in splits:
        if split not in DESCRIBED:
            raise ConfigurationError(f"unknown split {split!r}: expected one of {', '.join(DESCRIBED)}")
    images = configured_images(configuration, splits)
    whole = gallery = images.get("gallery")
    labelled = configuration.competition.labelled and ("validation" in images or limit is not None)
    positives: set[str] = set()
    if labelled and whole is not None:
        queries = images.get("validation") or split_images(configuration, "validation")
        labels = validation_labels(configuration, queries.ids, whole.ids)  # wrong ones: now, not later
        positives = {image_id for relevant in labels.values() for image_id in relevant}
    sampled = False
    if whole is not None and limit is not None and limit < len(whole):
        sampled, gallery = True, sample_images(whole, limit, configuration.tuning.seed, sorted(positives))
        images["gallery"] = gallery
        log.warning(
            f"--limit {limit}: a sample of {len(gallery)} of {len(whole)} gallery images, with all "
            f"{len(positives)} labelled positives in it: scores on it are optimistic, the full gallery has more to "
            "confuse them"
        )
    if SIMULATED in splits and configuration.simulate.images and configuration.backbones:
        if gallery is None:
            gallery = extracted_images(configuration, "gallery")
            sampled = sampled_ids(configuration) is not None
        images[SIMULATED] = simulated_images(gallery, configuration.simulate)
    found = {}
    for split, of in images.items():
        part, folder = False, whole_folder(configuration, split)
        if sampled and gallery is not None and split in ("gallery", SIMULATED):
            part, folder = True, sample_folder(configuration, gallery.ids, split)
        found[split] = SplitImages(of, folder, getattr(configuration.competition, split, None), part)
    return found, whole


def extracted_images(configuration: Configuration, split: str) -> ImageSet:
    """The images of a split that its dumps are about: all of them, or after `extract --limit` the sample."""
    images = split_images(configuration, split)
    ids = sampled_ids(configuration) if split == "gallery" else None
    if ids is None:
        return images
    wanted = set(ids)
    found = images.rows(row for row, image_id in enumerate(images.ids) if image_id in wanted)
    if len(found) != len(wanted):
        raise Top7Error(
            f"{sample_record(configuration)}: {len(wanted) - len(found)} images of the sample are gone from "
            f"{configuration.competition.gallery}: run ./run.sh extract --limit again"
        )
    return found


def use_sample(configuration: Configuration, sample: Sequence[str]) -> None:
    """Let commands use the finished dumps of `sample`, unless those of the whole gallery are all there."""
    record, folder = sample_record(configuration), whole_folder(configuration, "gallery")
    dumps = extracted_dumps(configuration, "gallery", folder)
    data = json.dumps({"ids": list(sample)}).encode()
    if all(beside(path, ".json").exists() for path in dumps):
        record.unlink(missing_ok=True)
        log.info(f"{folder}: the whole gallery is there: commands use it, not the sample")
    elif not record.exists() or record.read_bytes() != data:
        Disk().write_file(record, data)
