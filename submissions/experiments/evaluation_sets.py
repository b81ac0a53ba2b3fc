"""What an experiment runs on: data sets, the network with all that the rows need, where part detectors are learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import (
    Backbone,
    Competition,
    Configuration,
    Parts,
    Simulate,
    Tuning,
    read_backbone,
)
from competition.datasets import Dataset, below, load_dataset
from competition.errors import ConfigurationError
from competition.images import list_images
from competition.metrics import WHOLE_LISTS, figure_label
from competition.splits import query_groups
from competition.toml_values import Place
from features.components import Component, depth_order, parts_component
from features.descriptors import gallery_ids
from submissions.experiments.experiment import FOLDER, Experiment, PartsRow, TableRow
from tuning.labelled import labelled_queries

KEY = ("layer", "form", "selection", "variant", "seed")  # what tells tables of part detectors apart
LEARNT_FROM = 2000  # images that parts are learnt from, more only where M asks for more


@dataclass(frozen=True)
class EvaluationSet:
    """A data set to run on: its name, its configuration without backbones, its ground truth (None: the label file's)."""

    name: str
    configuration: Configuration
    dataset: Dataset | None
    folder: Path | None = None

    @property
    def whole_lists(self) -> bool:
        """Whether the figure is the mAP of whole lists, junk ignored."""
        asked = self.configuration.competition.metric == WHOLE_LISTS
        return asked or (self.dataset is not None and self.dataset.metric == "mAP")

    @property
    def metric(self) -> str:
        """What the figure is called."""
        competition = self.configuration.competition
        return "mAP" if self.whole_lists else figure_label(competition.metric, competition.top_k)

    def groups(self) -> np.ndarray:
        """Return the group of each query, (Q,): queries that share a correct image are one group."""
        if self.dataset is None:
            return labelled_queries(self.configuration, gallery_ids(self.configuration)).groups
        truths = self.dataset.truths.values()
        return query_groups(
            [frozenset().union(*each) for each in zip(*(truth.positives for truth in truths))]
        )


def evaluation_sets(
    data: Path | None, configuration: Configuration | None, work: Path | None, distractors: Path | None = None
) -> list[EvaluationSet]:
    """Return what there is to run on: --config's competition, or each data set below --data.

    --data: a folder with one data set, or with folders named after data sets (oxford5k, paris6k, …).
    """
    if configuration is not None:
        competition, dataset = configuration.competition, None
        if competition.format is not None:
            dataset = load_dataset(competition.format, competition.gallery, competition.distractors)
        return [EvaluationSet(competition.format or competition.name, configuration, dataset)]
    found = []
    for name, folder in ({} if data is None else below(data)).items():
        home = Path(work or "work/reproduce") / (name if distractors is None else f"{name}-with-distractors")
        dataset = load_dataset(name, folder, distractors)
        own: dict[str, Any] = {"work": home, "format": name, "distractors": distractors}
        competition = Competition(name, folder, folder, top_k=min(7, len(dataset.gallery)), **own)
        made = Configuration(folder, competition, (), (), Tuning(), Simulate(images=0))
        found.append(EvaluationSet(name, made, dataset, folder))
    return found


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
    """A table for all rows that learn alike: what they ask for together, and the largest M of all experiments of the file."""
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
    for key, wanted_of in asked.items():
        counts, own_dims, exponents = map(set, zip(*wanted_of))
        own: dict[str, Any] = dict(zip(KEY, key))
        for name, values in (("counts", counts), ("dims", own_dims | {most}), ("exponents", exponents)):
            own[name] = tuple(sorted(values))
        tables.append(Parts(**own, training=learnt.folder, training_images=images))
    return tuple(tables)


def parts_of_row(backbone: Backbone, parts: PartsRow, seed: int, dim: int) -> Component:
    """Return the component that a row's part detectors are, with M = `dim`."""
    keys = [tuple(getattr(table, name) for name in KEY) for table in backbone.parts]
    return parts_component(backbone, keys.index(_key(parts, seed)), parts.count, dim, float(parts.exponent))


def _key(parts: PartsRow, seed: int) -> tuple[Any, ...]:
    return (parts.layer, parts.form, parts.selection, parts.variant, seed)
