"""The data sets that an experiment runs on: that of a configuration, or each one below a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Competition, Configuration, Simulate, Tuning
from competition.datasets import Dataset, below, load_dataset
from competition.metrics import WHOLE_LISTS, figure_label
from competition.splits import query_groups
from features.descriptors import gallery_ids
from tuning.labelled import labelled_queries


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
        competition = configuration.competition
        dataset = None
        if competition.format is not None:
            dataset = load_dataset(competition.format, competition.gallery, competition.distractors)
        return [EvaluationSet(competition.format or competition.name, configuration, dataset)]
    if data is None:
        return []
    found = []
    for name, folder in below(data).items():
        home = (Path("work/reproduce") if work is None else Path(work)) / name
        if distractors is not None:
            home = home.with_name(f"{name}-with-distractors")
        dataset = load_dataset(name, folder, distractors)
        own: dict[str, Any] = {"work": home, "format": name, "distractors": distractors}
        competition = Competition(name, folder, folder, top_k=min(7, len(dataset.gallery)), **own)
        made = Configuration(folder, competition, (), (), Tuning(), Simulate(images=0))
        found.append(EvaluationSet(name, made, dataset, folder))
    return found
