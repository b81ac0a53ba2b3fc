"""Images that are gone since their dumps were finished: their rows are dropped only where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from competition.configuration import Configuration
from competition.errors import ConfigurationError
from competition.images import ImageSet
from features.dumps.layout import targets_of
from features.extraction.rebuilding import sidecar_of


def refuse_lost_rows(
    configuration: Configuration, images: Mapping[str, ImageSet], folders: Mapping[str, Path]
) -> None:
    """ConfigurationError, with the count, if a finished dump holds rows of images that are not there now."""
    for split, found in images.items():
        lost: list[str] = []
        dumps = 0
        for backbone in configuration.backbones:
            for target in targets_of(configuration, backbone, folders[split]):
                sidecar = sidecar_of(target)
                ids = sidecar["ids"] if sidecar else []
                if ids == list(found.ids):
                    continue
                if gone := sorted(set(ids) - set(found.ids)):
                    dumps, lost = dumps + 1, max(lost, gone, key=len)
        if lost:
            raise ConfigurationError(
                f"{getattr(configuration.competition, split)}: {len(lost)} images (such as {lost[0]!r}) are gone, of "
                f"which {dumps} finished dumps in {folders[split]} have rows: is all of the folder mounted? "
                "./run.sh extract --drop-gone drops these rows"
            )
