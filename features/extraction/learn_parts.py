"""Part detectors are learnt before the pass that uses them, from a sample of the gallery or a folder of their
own.

Which images they were learnt from is recorded under <work>/parts and part of the recipe of every dump made
with them. A gallery that grew keeps what was learnt. Under `--limit`, too, they are drawn from the whole
gallery, so that its extraction goes on with the same detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from competition.atomic import write_json
from competition.configuration import Backbone, Configuration, Parts
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, ids_digest, list_images
from competition.messages import log
from features.dumps import file_label
from features.dumps.layout import Target, backbone_recipe, learning_recipe, learnt_path, read_learnt
from features.extraction.decode_ahead import read_ahead
from features.extraction.engine import Engine
from features.parts import PartModel, check_parts, learn_parts, sample_rows
from features.parts.model import model_folder
from features.parts.remaining import Remaining, remaining

SIDE_PX = 64  # of a blank image, where images keep their own size
HELD_BYTES = 512 * 2**20  # what maps of a sample may take in memory between the passes over it


def check_part_tables(backbone: Backbone) -> None:
    """Raise ConfigurationError for a parts table that cannot be learnt whatever the images."""
    for parts in backbone.parts:
        where = f"[[backbone]] {backbone.name}, parts of layer {parts.layer!r}"
        check_parts(parts, where)
        if parts.layer not in backbone.layers:
            listed = ", ".join(map(str, backbone.layers))
            raise ConfigurationError(f"{where}: the layer is not among layers = [{listed}]: add it there")


def record_samples(configuration: Configuration, backbone: Backbone, gallery: ImageSet | None) -> None:
    """Decide the images to learn from, where that is not decided yet, and record them."""
    base = backbone_recipe(configuration, backbone)
    for parts in backbone.parts:
        path = learnt_path(configuration.competition.work, backbone.name, base, parts)
        try:
            known = read_learnt(path)
        except Top7Error as error:  # the same sample is drawn again
            log.warning(f"{error}: drawn again")
            known = None
        if known is not None:
            continue
        images = list_images(parts.training) if parts.training else gallery
        if images is None:
            raise Top7Error(
                f"{path}: no such file: the part detectors of {backbone.name} have not been learnt yet: run "
                "./run.sh extract for the gallery first"
            )
        rows = sample_rows(parts, len(images), np.ones(len(images), dtype=bool))
        ids = [images.ids[row] for row in rows]
        write_json(path, {"sample": ids_digest(ids)[:16], "ids": ids})


def set_part_models(
    engine: Engine, configuration: Configuration, gallery: ImageSet | None, targets: Sequence[Target]
) -> None:
    """Set `engine.part_models`: each opened from <work>/parts if learnt before, else learnt now and saved
    there; only the counts of `targets` are projected.
    """
    held: dict = {}
    for parts in engine.backbone.parts:
        sample = _Sample(configuration, engine.backbone, parts, gallery)
        model = _learn(
            configuration, engine.backbone, parts, lambda sample=sample: _sample_maps(engine, sample, held)
        )
        wanted = {target.count for target in targets if target.parts == parts}
        engine.part_models[parts] = model.only(wanted) if wanted else model


def open_part_model(configuration: Configuration, backbone: Backbone, parts: Parts) -> PartModel:
    """The model that `extract` learnt. Top7Error: there is none yet."""

    def absent() -> Iterable[torch.Tensor]:
        raise Top7Error(
            f"the part detectors of {backbone.name}, layer {parts.layer!r}, have not been learnt yet: run "
            "./run.sh extract"
        )

    return _learn(configuration, backbone, parts, absent)


def left_to_learn(configuration: Configuration, backbone: Backbone, parts: Parts) -> tuple[Remaining, int]:
    """What `set_part_models` would still do for one table, and the images of its recorded sample."""
    base = backbone_recipe(configuration, backbone)
    learnt = read_learnt(learnt_path(configuration.competition.work, backbone.name, base, parts))
    where = _where(configuration, backbone, parts)
    return remaining(parts, **where), len(learnt["ids"]) if learnt else 0


def learning_bytes(configuration: Configuration, engine: Engine, parts: Parts) -> int:
    """Bytes that `set_part_models` will write for one table: the sample's blocks in half precision, and for each
    count its components in float64.
    """
    left, sample = left_to_learn(configuration, engine.backbone, parts)
    if not left.aggregated and not left.counts:
        return 0
    side = engine.backbone.image_size or SIDE_PX
    maps = engine.maps(np.zeros((2, side, side, 3), dtype=np.uint8))
    channels = maps[engine.network.layers.index(parts.layer)].shape[1]
    return sample * (2 * channels * left.aggregated + 8 * max(parts.dims) * left.counts)


def part_folder(configuration: Configuration, backbone: Backbone, parts: Parts) -> Path:
    """Where the model of one table lies, learnt or not."""
    return model_folder(parts, **_where(configuration, backbone, parts))


def _learn(configuration: Configuration, backbone: Backbone, parts: Parts, maps: Callable) -> PartModel:
    return learn_parts(parts, maps, **_where(configuration, backbone, parts))


def _where(configuration: Configuration, backbone: Backbone, parts: Parts) -> dict:
    """folder, name and provenance of a part model."""
    base = backbone_recipe(configuration, backbone)
    learnt = read_learnt(learnt_path(configuration.competition.work, backbone.name, base, parts))
    return {
        "folder": Path(configuration.competition.work) / "parts",
        "name": file_label(backbone.name, parts.layer),
        "provenance": learning_recipe(base, parts) | {"learnt": learnt["sample"] if learnt else None},
    }


class _Sample:
    """The images of a recorded sample, looked up only if something has to be learnt."""

    def __init__(
        self, configuration: Configuration, backbone: Backbone, parts: Parts, gallery: ImageSet | None
    ) -> None:
        self.parts, self.gallery = parts, gallery
        base = backbone_recipe(configuration, backbone)
        self.path = learnt_path(configuration.competition.work, backbone.name, base, parts)

    @cached_property
    def images(self) -> ImageSet:
        learnt = read_learnt(self.path)
        images = list_images(self.parts.training) if self.parts.training else self.gallery
        row_of = {image_id: row for row, image_id in enumerate(images.ids)} if images is not None else {}
        if missing := [image_id for image_id in learnt["ids"] if image_id not in row_of]:
            raise Top7Error(
                f"{self.path}: {len(missing)} of the {len(learnt['ids'])} images to learn from are gone "
                f"(such "
                f"as {missing[0]!r}): remove this file to learn from the images there are"
            )
        return images.rows(row_of[image_id] for image_id in learnt["ids"])


def _sample_maps(engine: Engine, sample: _Sample, held: dict) -> Iterator[torch.Tensor]:
    """`layer_maps` of a sample; what fits in HELD_BYTES is kept in `held`, so that the tables of a layer share one pass."""
    key = (sample.parts.layer, ids_digest(sample.images.ids))
    if key in held:
        yield from held[key]
        return
    kept, size = [], 0
    for maps in layer_maps(engine, sample.images, sample.parts.layer):
        size += maps.nbytes
        if size <= HELD_BYTES:
            kept.append(maps.clone())
        yield maps
    if size <= HELD_BYTES:
        held.clear()
        held[key] = kept


def layer_maps(engine: Engine, images: ImageSet, layer: int | str) -> Iterator[torch.Tensor]:
    """One layer's maps (B, C, H, W) float32 of the readable images, in row order."""
    position = engine.network.layers.index(layer)
    pictures = read_ahead(
        images,
        range(len(images)),
        engine.sizings()[:1],
        workers=engine.decode_threads,
        ahead=4 * engine.settings.batch_rows,
    )
    skipped = 0
    readable = (picture.pixels[0] for picture in pictures if picture.pixels is not None)
    for pixels in _batches(readable, engine.settings.batch_rows):
        slots = max(len(pixels), 2 if engine.backbone.resize == "keep" else engine.settings.batch_rows)
        batch = np.zeros((slots, *pixels[0].shape), dtype=np.uint8)
        batch[: len(pixels)] = pixels
        maps = engine.for_parts(engine.maps(batch)[position])[: len(pixels)]
        finite = torch.isfinite(maps).flatten(1).all(1)
        skipped += int((~finite).sum())
        yield maps[finite]
    if skipped:
        log.warning(
            f"{engine.backbone.name}, layer {layer}: {skipped} images with values that are not finite are "
            f"left out of "
            "the training sample"
        )


def _batches(pixels: Iterable[np.ndarray], most: int) -> Iterator[Sequence[np.ndarray]]:
    """Neighbours of one shape, at most `most` together."""
    waiting: list[np.ndarray] = []
    for found in pixels:
        if waiting and (len(waiting) == most or waiting[0].shape != found.shape):
            yield waiting
            waiting = []
        waiting.append(found)
    if waiting:
        yield waiting
