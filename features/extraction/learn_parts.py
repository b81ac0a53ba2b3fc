"""Part detectors are learnt before the pass that uses them, from a sample of the gallery or a folder of their own.

Which images they were learnt from is recorded under <work>/parts and part of the recipe of every dump made
with them. A gallery that grew keeps what was learnt. Under `--limit`, too, they are drawn from the whole
gallery, so that its extraction goes on with the same detectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch

from competition.atomic import write_json
from competition.configuration import Backbone, Parts
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, ids_digest, list_images
from competition.messages import log
from features.dumps.layout import Target
from features.dumps.part_tables import PartTable, learnt_path, part_table
from features.extraction.engine import Engine
from features.parts import PartModel, check_parts, learn_parts, training_rows
from features.parts.aggregation import check_maps
from features.parts.learning import remaining
from features.parts.part_model import open_parts

SIDE_PX = 64  # of a blank image, where images keep their own size
HELD_BYTES = 512 * 2**20  # what maps of a sample may take in memory between the passes over it


def drawn_tables(
    work: Path, backbone: Backbone, recipe: Mapping, gallery: ImageSet | None
) -> tuple[PartTable, ...]:
    """Every parts table of a backbone; the images to learn from are decided where they are not yet, and recorded.

    ConfigurationError: a table that cannot be learnt whatever the images.
    """
    tables = []
    for parts in backbone.parts:
        where = f"[[backbone]] {backbone.name}, parts of layer {parts.layer!r}"
        check_parts(parts, where)
        if parts.layer not in backbone.layers:
            listed = ", ".join(map(str, backbone.layers))
            raise ConfigurationError(f"{where}: the layer is not among layers = [{listed}]: add it there")
        try:
            table = part_table(work, backbone.name, recipe, parts)
        except Top7Error as error:  # the same sample is drawn again
            log.warning(f"{error}: drawn again")
            table = None
        if table is None or table.sample is None:
            _draw(learnt_path(work, backbone.name, recipe, parts), backbone.name, parts, gallery)
            table = part_table(work, backbone.name, recipe, parts)
        tables.append(table)
    return tuple(tables)


def _draw(record: Path, backbone: str, parts: Parts, gallery: ImageSet | None) -> None:
    images = list_images(parts.training) if parts.training else gallery
    if images is None:
        raise Top7Error(
            f"{record}: no such file: the part detectors of {backbone} have not been learnt yet: run "
            "./run.sh extract for the gallery first"
        )
    ids = [images.ids[row] for row in training_rows(parts, len(images))]
    write_json(record, {"sample": ids_digest(ids)[:16], "ids": ids})


def learn_part_models(
    engine: Engine, tables: Sequence[PartTable], gallery: ImageSet | None, targets: Sequence[Target]
) -> None:
    """Set `engine.part_models`: each opened where it was learnt before, else learnt now and saved.

    gallery: of which the samples are; only the counts of `targets` are projected.
    """
    held: dict[tuple, list[torch.Tensor]] = {}
    for table in tables:
        maps = partial(_sample_maps, engine, table, gallery, held)
        model = learn_parts(table.parts, maps, images=len(table.ids), **table.model)
        engine.part_models[table.parts] = _of_targets(model, targets)


def part_models(tables: Sequence[PartTable], targets: Sequence[Target]) -> dict[Parts, PartModel]:
    """The learnt models of some tables, for the counts of `targets`."""
    return {table.parts: _of_targets(open_parts(table), targets) for table in tables}


def _of_targets(model: PartModel, targets: Sequence[Target]) -> PartModel:
    wanted = {target.count for target in targets if target.parts == model.parts and target.count is not None}
    return model.only(wanted) if wanted else model


def learning_bytes(engine: Engine, table: PartTable) -> int:
    """Bytes that `learn_part_models` will write for one table.

    They are the sample's blocks in half precision, and for each count its components in float64.
    """
    left = remaining(table.parts, **table.model)
    if not left.aggregated and not left.counts:
        return 0
    parts, side = table.parts, engine.backbone.image_size or SIDE_PX
    maps = engine.maps(np.zeros((2, side, side, 3), dtype=np.uint8))
    channels = maps[engine.network.layers.index(parts.layer)].shape[1]
    return len(table.ids) * (2 * channels * left.aggregated + 8 * max(parts.dims) * left.counts)


def _sample_maps(
    engine: Engine, table: PartTable, gallery: ImageSet | None, held: dict[tuple, list[torch.Tensor]]
) -> Iterator[torch.Tensor]:
    """`layer_maps` of a sample; what fits in HELD_BYTES is kept in `held`, so that the tables of a layer share one pass."""
    ids = table.ids
    key = (table.parts.layer, ids)
    if key in held:
        yield from held[key]
        return
    images = list_images(table.parts.training) if table.parts.training else gallery
    row_of = {image_id: row for row, image_id in enumerate(images.ids)} if images is not None else {}
    missing = [image_id for image_id in ids if image_id not in row_of]
    if images is None or missing:
        raise Top7Error(
            f"{table.record}: {len(missing)} of the {len(ids)} images to learn from are gone (such as "
            f"{missing[0]!r}): remove this file to learn from the images there are"
        )
    kept: list[torch.Tensor] = []
    size = 0
    for maps in layer_maps(engine, images.rows(row_of[image_id] for image_id in ids), table.parts.layer):
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
    pictures = engine.pictures(images, range(len(images)), scaled=False)
    skipped = 0
    readable = (picture.pixels[0] for picture in pictures if picture.pixels is not None)
    for shape, neighbours in groupby(readable, np.shape):
        while pixels := list(islice(neighbours, engine.settings.batch_rows)):
            slots = max(len(pixels), 2 if engine.backbone.resize == "keep" else engine.settings.batch_rows)
            batch = np.zeros((slots, *shape), dtype=np.uint8)
            batch[: len(pixels)] = pixels
            maps = engine.for_parts(engine.maps(batch)[position])[: len(pixels)]
            finite = torch.isfinite(maps).flatten(1).all(1)
            skipped += int((~finite).sum())
            with engine.named(f"parts of layer {layer!r}"):
                check_maps(maps, finite=False)
            yield maps[finite]
    if skipped:
        log.warning(
            f"{engine.backbone.name}, layer {layer}: {skipped} images with values that are not finite are left out of "
            "the training sample"
        )
