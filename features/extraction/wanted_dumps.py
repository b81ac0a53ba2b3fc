"""The dumps that a configuration asks for: of each backbone with its part tables, and of each external matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from competition.atomic import remove_abandoned
from competition.configuration import Backbone, Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from features.dumps.disk import Disk
from features.dumps.layout import (
    Target,
    backbone_recipe,
    external_dump_path,
    external_recipe,
    targets_of,
    whole_folder,
)
from features.extraction.external import ExternalDump
from features.extraction.learn_parts import PartTable, drawn_tables
from features.extraction.sample import SplitImages
from features.extraction.settings import settings_path
from features.extraction.status import recover


@dataclass(frozen=True)
class BackboneDumps:
    """A backbone with what it is to give. targets: the dumps of each split; settings: the file of its settings."""

    backbone: Backbone
    settings: Path
    tables: tuple[PartTable, ...]
    targets: dict[str, list[Target]]


def backbone_dumps(
    configuration: Configuration,
    images: dict[str, SplitImages],
    whole: ImageSet | None,
    *,
    recovering: bool = True,
) -> list[BackboneDumps]:
    """What every backbone is to give; the samples to learn part detectors from are drawn where they are not yet.

    recovering: complete what an earlier run left between its last row and its last file name; what it left half
    written in between goes.
    """
    work = Path(configuration.competition.work)
    if recovering:
        for folder in {work, *work.glob("*/"), *work.glob("dumps/*/"), *(f.folder for f in images.values())}:
            remove_abandoned(folder)
    found = []
    for backbone in configuration.backbones:
        recipe = backbone_recipe(configuration, backbone)
        tables = drawn_tables(work, backbone, recipe, whole)
        targets = {split: targets_of(configuration, backbone, of.folder) for split, of in images.items()}
        if recovering:
            for split, of in images.items():
                recover(targets[split], of.folder, Disk())
        found.append(BackboneDumps(backbone, settings_path(work, backbone, recipe), tables, targets))
    return found


def external_dumps(configuration: Configuration, images: dict[str, SplitImages]) -> list[ExternalDump]:
    """Every [[external]] matrix of the splits; a missing file is an error before anything is run."""
    dumps = []
    for external in configuration.externals:
        for split, of in images.items():
            if (source := getattr(external, split, None)) is None:
                continue
            if not Path(source).is_file():
                raise Top7Error(
                    f"{source}: no such file: [[external]] {external.name} expects a .npy matrix, one row an id"
                )
            path = external_dump_path(configuration, split, external, of.folder)
            recipe = external_recipe(external, split)
            dumps.append(ExternalDump(external.name, split, source, of.images, path, recipe, of.sampled))
    return dumps


def whole_gallery_dumps(configuration: Configuration) -> Iterator[Path]:
    """Yield every dump of the whole gallery, there or not."""
    folder = whole_folder(configuration, "gallery")
    for backbone in configuration.backbones:
        yield from (target.path for target in targets_of(configuration, backbone, folder))
    for external in configuration.externals:
        yield external_dump_path(configuration, "gallery", external, folder)
