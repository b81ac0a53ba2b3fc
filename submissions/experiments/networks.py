"""The network of an experiment, with every layer, pooling and table of part detectors that its rows need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from competition.configuration import Backbone, Parts, read_backbone
from competition.errors import ConfigurationError
from competition.images import list_images
from competition.toml_values import Place
from features.components import Component, depth_order, parts_component
from features.descriptors import gallery_ids
from submissions.experiments.evaluation_sets import EvaluationSet
from submissions.experiments.experiment import FOLDER, Experiment, PartsRow, TableRow

KEY = ("layer", "form", "selection", "variant", "seed")  # what tells tables of part detectors apart
LEARNT_FROM = 2000  # images that parts are learnt from, more only where M asks for more


@dataclass(frozen=True)
class Learning:
    """Where parts are learnt (None: the gallery itself), from how many images, and the M taken in place of a larger."""

    folder: Path | None
    images: int
    fallback_dim: int

    def dim(self, parts: PartsRow) -> int:
        """Return M as asked, else the experiment's own replacement, 0 where so many images teach neither."""
        return next((dim for dim in (parts.dim, self.fallback_dim) if dim < self.images - 1), 0)


def learning(experiment: Experiment, target: EvaluationSet) -> Learning:
    """Return where the part detectors of an experiment are learnt: the other data set where it is there."""
    other = experiment.learn.get(target.name)
    if other and target.folder is not None and (target.folder.parent / other).is_dir():
        folder = target.folder.parent / other
        return Learning(folder, len(list_images(folder)), experiment.fallback_dim)
    gallery = target.dataset.gallery.ids if target.dataset else gallery_ids(target.configuration)
    return Learning(None, len(gallery), experiment.fallback_dim)


def network(
    experiment: Experiment, target: EvaluationSet, rows: Sequence[TableRow], options: Mapping[str, Any]
) -> Backbone:
    """Return the backbone that the rows need: that of --config, else the recipe's.

    options: "weights" and "image_size" of the command line.
    """
    needed = [row for row in rows if row.ours]
    layers = {layer for row in needed for layer in (*row.layers, *([row.parts.layer] if row.parts else []))}
    poolings = list(dict.fromkeys(row.pooling for row in needed if row.layers)) or ["spoc"]
    if target.configuration.backbones:
        base = target.configuration.backbones[0]
    else:
        values = {**experiment.network, "layers": [0]}
        values |= {key: value for key, value in options.items() if value is not None}
        if values.get("weights") == "local":
            lacking = experiment.note or "give the network: --weights FILE"
            raise ConfigurationError(f"{experiment.name}: {lacking}")
        base = read_backbone(values, Place(FOLDER, f"[network] of {experiment.name}"))
        base = replace(base, name=base.name or base.model)
    return replace(
        base,
        layers=depth_order(tuple(sorted(layers, key=str))),
        pooling=tuple(poolings),
        parts=_tables(experiment, learning(experiment, target), needed),
    )


def _tables(experiment: Experiment, learnt: Learning, rows: Sequence[TableRow]) -> tuple[Parts, ...]:
    asked: dict[tuple[Any, ...], list[tuple[int, int, float]]] = {}
    for row in rows:
        if row.parts is not None and (dim := learnt.dim(row.parts)):
            for seed in range(row.seeds):
                wanted = (row.parts.count, dim, float(row.parts.exponent))
                asked.setdefault(_key(row.parts, seed), []).append(wanted)
    dims = (*experiment.dims, experiment.fallback_dim)
    most = max((dim for dim in dims if dim < learnt.images - 1), default=0)
    images = LEARNT_FROM if most < LEARNT_FROM else learnt.images
    tables = []
    for key, all_wanted in asked.items():
        counts, own_dims, exponents = (set(values) for values in zip(*all_wanted))
        lists = (tuple(sorted(values)) for values in (counts, own_dims | {most}, exponents))
        own: dict[str, Any] = dict(zip((*KEY, "counts", "dims", "exponents"), (*key, *lists)))
        tables.append(Parts(**own, training=learnt.folder, training_images=images))
    return tuple(tables)


def parts_of_row(backbone: Backbone, parts: PartsRow, seed: int, dim: int) -> Component:
    """Return the component that a row's part detectors are, with M = `dim`."""
    keys = [tuple(getattr(table, name) for name in KEY) for table in backbone.parts]
    return parts_component(backbone, keys.index(_key(parts, seed)), parts.count, dim, float(parts.exponent))


def _key(parts: PartsRow, seed: int) -> tuple[Any, ...]:
    return (parts.layer, parts.form, parts.selection, parts.variant, seed)
