"""Open the dumps of a recipe's components, all of one split, compared row by row with the images asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from competition.configuration import Configuration
from competition.errors import ConfigurationError
from features.components import Component
from features.dumps import Dump, open_dump
from features.dumps.layout import component_place


def gallery_ids(configuration: Configuration) -> tuple[str, ...]:
    """Return the ids of the gallery rows: all images, or the sample of `extract --limit`.

    ConfigurationError where `top_k` asks for more than there are.
    """
    from features.extraction import extracted_images

    ids = tuple(extracted_images(configuration, "gallery").ids)
    top_k = configuration.competition.top_k
    if top_k > len(ids):
        raise ConfigurationError(
            f"{configuration.path}: [competition] top_k = {top_k}, but the gallery "
            f"{configuration.competition.gallery} holds {len(ids)} images: lower top_k"
        )
    return ids


def open_components(
    configuration: Configuration,
    components: Sequence[Component],
    split: str,
    ids: Sequence[str] | None,
    folder: Path | None = None,
) -> list[Dump]:
    """Open one dump a component, in order; whitened part components are made on first use and kept.

    ids: the rows expected (None: whatever the first dump holds, and all the same). folder: instead of the split's
    own (queries given to predict). Top7Error: a dump is missing, damaged, of another recipe or of other images.
    """
    dumps: list[Dump] = []
    for component in components:
        place = component_place(configuration, component, split, folder)
        if (setting := component.setting) is not None:
            from features.parts.whitened import make_whitened  # imports torch

            make_whitened(setting, place)
        dump = open_dump(place.path, ids=ids)
        ids = dump.ids if ids is None else ids
        dumps.append(dump)
    return dumps
