"""`extract --limit`: a seeded sample of the gallery that holds every labelled positive, and its record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.images import ImageSet, sample_images, split_images
from features.extraction.disk import Disk
from features.extraction.targets import dumps_folder

LIMIT_FILE = "limit.json"


def extracted_images(configuration: Configuration, split: str) -> ImageSet:
    """The images of a split that its dumps are about: all of them, or after `extract --limit` the sample."""
    images = split_images(configuration, split)
    limited = limited_ids(configuration) if split == "gallery" else None
    if limited is None:
        return images
    wanted = set(limited)
    found = images.rows(row for row, image_id in enumerate(images.ids) if image_id in wanted)
    if len(found) != len(wanted):
        raise Top7Error(
            f"{_limit_path(configuration)}: {len(wanted) - len(found)} images of the sample are gone from "
            f"{configuration.competition.gallery}: run ./run.sh extract --limit again"
        )
    return found


def limited_gallery(
    configuration: Configuration, found: dict[str, ImageSet], limit: int | None, keep: bool
) -> ImageSet:
    gallery, path = found["gallery"], _limit_path(configuration)
    if limit is None or limit >= len(gallery):
        if keep:
            path.unlink(missing_ok=True)
        return gallery
    positives: set[str] = set()
    if configuration.competition.labels is not None:
        from competition.labels import read_labels

        queries = found.get("validation") or split_images(configuration, "validation")
        labels = read_labels(configuration.competition.labels, query_ids=queries.ids, gallery_ids=gallery.ids)
        positives = {image_id for relevant in labels.values() for image_id in relevant}
    sample = sample_images(gallery, limit, configuration.tuning.seed, sorted(positives))
    print(
        f"--limit {limit}: a sample of {len(sample)} of {len(gallery)} gallery images, with all "
        f"{len(positives)} "
        "labelled positives in it: scores on it are optimistic, the full gallery has more to confuse them",
        file=sys.stderr,
    )
    if keep:
        Disk().write_file(path, json.dumps({"limit": limit, "ids": list(sample.ids)}).encode())
    return sample


def _limit_path(configuration: Configuration) -> Path:
    return dumps_folder(configuration, "gallery") / LIMIT_FILE


def limited_ids(configuration: Configuration) -> list[str] | None:
    path = _limit_path(configuration)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["ids"]
    except FileNotFoundError:
        return None


def limit_of(configuration: Configuration) -> int | None:
    ids = limited_ids(configuration)
    return None if ids is None else len(ids)
