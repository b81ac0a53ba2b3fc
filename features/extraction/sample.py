"""`extract --limit`: a seeded sample of the gallery that holds every labelled positive, with dumps of its own.

They lie beside the whole gallery's. Commands use them until the whole gallery has been extracted.
"""

from __future__ import annotations

import json

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.images import ImageSet, sample_images, split_images
from competition.messages import log
from features.dumps import beside
from features.dumps.disk import Disk
from features.dumps.layout import (
    external_dump_path,
    sample_record,
    sampled_ids,
    targets_of,
    whole_folder,
)


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


def sample_of(configuration: Configuration, gallery: ImageSet, limit: int) -> ImageSet:
    """The sample of `--limit`, or the whole gallery if it has no more images; says that its scores are optimistic."""
    if limit >= len(gallery):
        return gallery
    positives: set[str] = set()
    if configuration.competition.labelled:
        from competition.labels import validation_labels

        queries = split_images(configuration, "validation")
        labels = validation_labels(configuration, queries.ids, gallery.ids)
        positives = {image_id for relevant in labels.values() for image_id in relevant}
    sample = sample_images(gallery, limit, configuration.tuning.seed, sorted(positives))
    log.warning(
        f"--limit {limit}: a sample of {len(sample)} of {len(gallery)} gallery images, with all "
        f"{len(positives)} labelled positives in it: scores on it are optimistic, the full gallery has more to "
        "confuse them"
    )
    return sample


def use_sample(configuration: Configuration, sample: ImageSet) -> None:
    """Let commands use the finished dumps of `sample`, unless those of the whole gallery are all there."""
    whole = whole_folder(configuration, "gallery")
    paths = [
        target.path
        for backbone in configuration.backbones
        for target in targets_of(configuration, backbone, whole)
    ] + [
        external_dump_path(configuration, "gallery", external, whole) for external in configuration.externals
    ]
    if all(beside(path, ".json").exists() for path in paths):
        use_whole(configuration)
        log.info(f"{whole}: the whole gallery is there: commands use it, not the sample")
    elif sampled_ids(configuration) != list(sample.ids):
        Disk().write_file(sample_record(configuration), json.dumps({"ids": list(sample.ids)}).encode())


def use_whole(configuration: Configuration) -> None:
    """Let commands use the whole gallery's dumps; the sample's are kept."""
    if sample_record(configuration).exists():
        sample_record(configuration).unlink()
