"""What a study walks over: every combination of choices of a configuration, made when first asked for."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.images import ids_digest
from features.components import check_choice, choices, components_of
from features.descriptors import gallery_ids, open_components
from tuning.combination import Combination, make_combination
from tuning.labelled import labelled_queries
from tuning.objective import Scene, mean_average_precision

Choice = Mapping[str, object]
KEPT_SCENES = 64


class Landscape:
    """The combinations of a configuration, each made when first asked for and kept in `work/candidates`."""

    def __init__(self, configuration: Configuration, *, fixed: Choice | None = None, progress: bool = True):
        self.configuration, self.progress = configuration, progress
        self.gallery_ids = gallery_ids(configuration)
        self.labelled = labelled_queries(configuration, self.gallery_ids)
        self.choice_lists = choices(configuration)
        if fixed:
            check_choice(configuration, fixed)
            self.choice_lists = {name: (fixed[name],) for name in self.choice_lists}
        self._made: dict[str, Combination] = {}
        self._inside: dict[tuple[str, bytes], Scene] = {}

    def dumps(self, choice: Choice) -> tuple[list, list]:
        """Open the query and gallery dumps of a choice."""
        components = components_of(self.configuration, choice)
        return (open_components(self.configuration, components, "validation", self.labelled.query_ids),
                open_components(self.configuration, components, "gallery", self.gallery_ids))

    def combination(self, choice: Choice) -> Combination:
        """Return the combination of `choice`."""
        key = json.dumps(dict(choice), sort_keys=True)
        if key not in self._made:
            queries, gallery = self.dumps(choice)
            self._made[key] = make_combination(
                components_of(self.configuration, choice), queries, gallery, self.labelled.relevant, self.labelled.public,
                self.configuration.competition.top_k, self.configuration.tuning.region,
                Path(self.configuration.competition.work) / "candidates", progress=self.progress, say=_say)
        return self._made[key]

    def map_inside(self, choice: Choice, coordinates: np.ndarray, inside: np.ndarray) -> float:
        """Return MAP@k over the queries of `inside` (Q,) bool."""
        combination = self.combination(choice)
        weights = coordinates @ combination.corners
        if combination.scene is not None:
            value = mean_average_precision(self._scene_inside(choice, inside), weights)
        else:
            value = float(combination.average_precisions(weights)[inside].mean())
        if not np.isfinite(value):
            raise Top7Error(f"MAP@k came out as {value}: descriptors are not finite; run ./run.sh extract again")
        return value

    def _scene_inside(self, choice: Choice, inside: np.ndarray) -> Scene:
        key = (json.dumps(dict(choice), sort_keys=True), inside.tobytes())
        if key not in self._inside:
            if len(self._inside) >= KEPT_SCENES:
                self._inside.pop(next(iter(self._inside)))
            self._inside[key] = self.combination(choice).scene.of_queries(inside)
        return self._inside[key]

    def chains_alone(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return, for each chain that choices make, its deepest vertex and the names of those choices."""
        components = components_of(self.configuration, self.all_choices()[0])
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        for vertex, component in enumerate(components):
            prefix = component.chain if component.pooling is None else component.backbone
            keys = ("pooling",) if component.pooling is not None else ("count", "dim", "exponent")
            names = tuple(f"{prefix}.{key}" for key in keys if f"{prefix}.{key}" in self.choice_lists)
            if names:
                found[component.chain] = (vertex, names)  # the deepest of a chain comes last
        return list(found.values())

    def all_choices(self) -> list[dict[str, object]]:
        """Return every combination of choices of the study, its first values first."""
        return [dict(zip(self.choice_lists, values)) for values in product(*self.choice_lists.values())]

    def study_name(self) -> str:
        """Name what a trial's value depends on: a study of other data or other choices is another study."""
        tuning, competition = self.configuration.tuning, self.configuration.competition
        described = {
            "choices": {name: list(values) for name, values in self.choice_lists.items()}, "region": tuning.region,
            "gallery": ids_digest(self.gallery_ids), "queries": ids_digest(self.labelled.query_ids),
            "relevant": [rows.tolist() for rows in self.labelled.relevant], "top_k": competition.top_k,
            "private": np.flatnonzero(self.labelled.private).tolist(), "sampler": tuning.sampler,
            "dumps": self.identity(),
        }
        return f"{competition.name}-{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]}"

    def identity(self) -> list[str]:
        """The dump files of the first choice: their names hold the digest of what made them."""
        first = {name: values[0] for name, values in self.choice_lists.items()}
        return sorted(dump.path.name for dump in self.dumps(first)[1])


def _say(text: str) -> None:
    print(text, file=sys.stderr)
