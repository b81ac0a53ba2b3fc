"""What a study chooses from: every combination of choices of a configuration, made when first asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.messages import log
from competition.metrics import WHOLE_LISTS, list_depth, query_figures
from features.components import Choice, Component
from features.descriptors import gallery_ids, open_components
from features.dumps import Dump
from features.dumps.budget import budget, cache_bytes
from features.ranking.photos import photos_for
from features.ranking.steps import apply_steps, split_steps, step_of, used_components
from features.recipes.recipe import Recipe
from tuning.combination import Combination, in_region, make_combination, mean_similarities
from tuning.labelled import judged_by, open_queries
from tuning.prepared import Prepared, prepare, scratch
from tuning.space import Space, space_of, without_joint
from tuning.step_choices import StepEntry, with_weights

KEPT_BYTES = 512 << 20  # of combinations' candidates in memory; they are on the disk too
KEPT_DUMPS = 4  # opened sets of dumps at most: their files stay open
MOST_JOINED = 6144  # dimensions: some 20 s for each setting of a joint whitening, 10,000 take 165 s
LARGE_GALLERY = 20_000  # rows past which steps over the whole gallery take long


class Landscape:
    """The combinations of a configuration, or of a recipe on it, each made when first asked for.

    Candidates are kept in `work/candidates`, derived dumps in `work/ranking`.
    """

    def __init__(self, configuration: Configuration, *, recipe: Recipe | None = None):
        self.gallery_ids = gallery_ids(configuration)
        steps = configuration.tuning.steps if recipe is None else recipe.steps
        configuration, self.labelled = judged_by(configuration, steps, self.gallery_ids)
        self.configuration = configuration
        self.work = Path(configuration.competition.work)
        self.top_k, self.metric = configuration.competition.top_k, configuration.competition.metric
        self.space = space_of(configuration, recipe)
        if self.space.recipe is not None:
            self.space = self._affordable(self.space)
        self.choice_lists = self.space.choice_lists
        self._made: dict[str, Combination] = {}
        self._prepared: dict[str, Prepared] = {}

    def _affordable(self, space: Space) -> Space:
        """The space without joint whitening of more dimensions than a trial has time for, which is said."""
        narrowed = without_joint(space)
        if narrowed is space:
            return space
        components = space.components_of(space.default)
        gallery = open_components(self.configuration, components, "gallery", self.gallery_ids)
        width = sum(dump.descriptors.shape[1] for dump in gallery)
        if width <= MOST_JOINED:
            return space
        log.info(
            f"top7: left out of the study: whitening all components joined, {width} dimensions: more than {MOST_JOINED} "
            "take minutes for each setting (joint = true in a recipe does it)"
        )
        return narrowed

    def dumps(self, choice: Choice) -> tuple[list[Dump], list[Dump]]:
        """Open the query and gallery dumps of a choice, as they are before any step."""
        components = self.space.components_of(choice)
        gallery = open_components(self.configuration, components, "gallery", self.gallery_ids)
        return open_queries(self.configuration, components, self.labelled), gallery

    def steps(self, choice: Choice) -> tuple[tuple[StepEntry, ...], tuple[StepEntry, ...]]:
        """Return the steps of a choice that no weights change, and those after them."""
        return split_steps(self.space.steps_of(choice))

    def prepared(self, choice: Choice) -> Prepared:
        """Return the dumps of a choice after the steps that no weights change."""
        components, (own, _) = self.space.components_of(choice), self.steps(choice)
        key = _key(components, own)
        if key not in self._prepared:
            while len(self._prepared) >= KEPT_DUMPS:
                self._let_go()
            ids, simulated = self.gallery_ids, int((~self.labelled.real).sum())
            depth, folder = list_depth(self.metric, self.top_k, len(ids)), self.work / "ranking"
            taught = self.configuration, components, self.space.steps_of(choice), ids
            with self._budget():
                photos = photos_for(*taught, photos_judge=simulated > 0)
                more: dict[str, Any] = {"photos": photos, "simulated": simulated}
                self._prepared[key] = prepare(components, *self.dumps(choice), own, depth, folder, **more)
        return self._prepared[key]

    def combination(self, choice: Choice) -> Combination:
        """Return the combination of `choice`; without candidates where steps or metric need the whole gallery."""
        key = _key(self.space.components_of(choice), self.space.steps_of(choice))
        if key not in self._made:
            begun = time.perf_counter()
            made = self._combination(choice)
            self._made[key] = replace(made, made_s=time.perf_counter() - begun)
            _within_memory(self._made)
        return self._made[key]

    def _combination(self, choice: Choice) -> Combination:
        prepared, (_, after) = self.prepared(choice), self.steps(choice)
        queries, gallery, summed = prepared.queries, prepared.gallery, self.labelled.representative
        region = self.configuration.tuning.region
        if after or self.metric == WHOLE_LISTS:
            made = in_region(prepared.components, mean_similarities(queries, gallery, summed), region)
            made = replace(made, mean_candidates=float(len(self.gallery_ids)))
        else:
            asked = prepared.components, queries, gallery, self.labelled.relevant, summed
            with self._budget():
                made = make_combination(*asked, self.top_k, region, self.work / "candidates", self.metric)
        if self._joined(choice):  # each of the study's coordinates is the one component that is left
            made = replace(made, corners=np.ones((self.space.n_vertices(choice), 1)))
        if made.padded is not None:
            return replace(made, padded=replace(made.padded, weight=self.labelled.weight))
        ranking = _once(lambda weights: self.full_precisions(choice, weights, made.corners))
        return replace(made, ranking=ranking)

    def _joined(self, choice: Choice) -> bool:
        return any(step_of(step).joins for step in self.steps(choice)[0])

    def full_precisions(self, choice: Choice, weights: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Return AP@k of every labelled query by ranking the whole gallery through all steps, (Q,) float64.

        weights (L,): any, of the region or not, without meaning where a step joins the components; corners
        (J, L): the region's, which a cascade's stages may name.
        """
        (own, after), prepared, labelled = self.steps(choice), self.prepared(choice), self.labelled
        weights = np.ones(1) if self._joined(choice) else np.asarray(weights)
        steps = with_weights(after, weights, corners)
        used = used_components(weights, None, [*own, *steps])  # as where a submission is written
        large = len(self.gallery_ids) > LARGE_GALLERY
        state = replace(prepared.state.of(used, weights[used]), progress=large)
        with self._budget(), scratch(state.folder, steps) as folder:
            ranks, _ = apply_steps(replace(state, folder=folder), steps).lists(state.k)
        return query_figures(ranks, labelled.relevant, self.top_k, self.metric, labelled.junk)

    def precisions(self, choice: Choice, coordinates: np.ndarray) -> np.ndarray:
        """Return AP@k of every query at a point of the study, (Q,) float64."""
        combination = self.combination(choice)
        return combination.average_precisions(combination.weights(coordinates))

    def map_inside(self, choice: Choice, coordinates: np.ndarray, inside: np.ndarray) -> float:
        """Return MAP@k over the queries of `inside` (Q,) bool, each counted by its weight."""
        values = self.precisions(choice, coordinates)[inside]
        return float(np.average(values, weights=self.labelled.weight[inside]))

    def recipe_weights(self, choice: Choice, coordinates: np.ndarray) -> np.ndarray:
        """Return the weights of a point as a recipe holds them, (L,): equal ones where a step joins the components."""
        if self._joined(choice):
            return np.full(self.space.n_vertices(choice), 1.0 / self.space.n_vertices(choice))
        return self.combination(choice).weights(coordinates)

    def recipe_steps(self, choice: Choice, weights: np.ndarray) -> tuple[StepEntry, ...]:
        """Return the steps of a choice under `weights` as a recipe holds them: numbers only."""
        own, after = self.steps(choice)
        corners = self.combination(choice).corners
        if self._joined(choice):
            corners = np.tile(weights, (len(weights), 1))
        return (*own, *with_weights(after, weights, corners))

    def recipe(
        self, name: str, choice: Choice, weights: np.ndarray, scores: dict[str, float], provenance: dict
    ) -> Recipe:
        """Return the recipe of a choice under `weights` (L,)."""
        components, steps = self.space.components_of(choice), self.recipe_steps(choice, weights)
        return Recipe(name, components, tuple(map(float, weights)), dict(choice), scores, provenance, steps)

    def kind(self, choice: Choice) -> str:
        """Say how a trial of `choice` is evaluated."""
        own, after = ([str(step["step"]) for step in steps] for steps in self.steps(choice))
        whole = ["mAP ranks everything"] if self.metric == WHOLE_LISTS else []
        if whole or after:
            return f"full gallery ({', '.join([*whole, *own, *after])})"
        return f"own candidates ({', '.join(own)})" if own else "candidates (plain fusion)"

    def all_choices(self) -> list[dict[str, Any]]:
        """Return every combination of choices of the study, its first values first."""
        return [dict(zip(self.choice_lists, values)) for values in product(*self.choice_lists.values())]

    @cached_property
    def cache_bytes(self) -> int:
        """What candidates and steps may keep on the disk: as configured, or twice the gallery's dumps."""
        gallery = self.dumps(self.space.default)[1]
        return cache_bytes(self.configuration.tuning.cache_gib, [dump.descriptors for dump in gallery])

    def _budget(self) -> AbstractContextManager[None]:
        return budget(self.work, self.cache_bytes, self._let_go)

    def _let_go(self) -> bool:
        """Close the oldest prepared dumps; False: there are none."""
        if not self._prepared:
            return False
        del self._prepared[next(iter(self._prepared))]
        return True

    def kept_files(self) -> tuple[int, int]:
        """Return how many files work/candidates and work/ranking hold, of earlier configurations too, and their bytes."""
        folders = [self.work / name for name in ("candidates", "ranking")]
        sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
        return len(sizes), sum(sizes)


def _once(ranking: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Rank the whole gallery once a point, however many ask for its precisions."""
    remembered = cache(lambda weights: ranking(np.frombuffer(weights)))
    return lambda weights: remembered(weights.tobytes())


def _within_memory(made: dict[str, Combination]) -> None:
    """Let go of the oldest combinations with candidates, but not of the last, until they fit KEPT_BYTES."""
    padded = {key: each.padded for key, each in made.items() if each.padded is not None}
    sizes = {key: each.similarities.nbytes + each.rows.nbytes for key, each in padded.items()}
    for key in list(sizes)[:-1]:
        if sum(sizes.values()) > KEPT_BYTES:
            del made[key], sizes[key]


def _key(components: Sequence[Component], steps: Sequence[StepEntry]) -> str:
    return json.dumps([[component.name for component in components], list(steps)], sort_keys=True)
