"""What a study walks over: every combination of choices of a configuration, made when first asked for."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.images import ids_digest
from competition.messages import log
from competition.metrics import WHOLE_LISTS, figure_name, list_depth, query_figures
from features.descriptors import gallery_ids, open_components
from features.dumps.budget import budget
from features.ranking.descriptor_steps import joins
from features.ranking.photos import photos_for
from features.ranking.state import Photos
from features.ranking.steps import split_steps
from features.recipes.recipe import Recipe
from tuning.combination import Combination, make_combination, mean_similarities
from tuning.labelled import objective_of, open_queries, study_queries
from tuning.objective import Scene, mean_average_precision
from tuning.prepared import Prepared, prepare
from tuning.region import layer_sums, region_chains, vertices
from tuning.space import space_of
from tuning.step_choices import Step, with_weights

Choice = Mapping[str, Any]
SEARCH = (
    1  # raise it where a trial's parameters come to mean other weights, or its figure is computed otherwise
)
KEPT_BYTES = 512 << 20  # of scenes of all queries, and again of parts of them; kept on disk beside
LEAST_CACHE = 64 << 20  # bytes; a small gallery's budget would not hold what one trial needs
KEPT_DUMPS = 4  # opened sets of dumps: their files stay open
LARGE_GALLERY = 20_000  # rows past which one trial over a neighbour graph shows its own bars


class Landscape:
    """The combinations of a configuration, or of a recipe on it, each made when first asked for.

    Candidates are kept in `work/candidates`, derived dumps in `work/ranking`.
    """

    def __init__(self, configuration: Configuration, *, recipe: Recipe | None = None, progress: bool = True):
        self.configuration, self.progress = configuration, progress
        self.work = Path(configuration.competition.work)
        self.top_k, self.metric = configuration.competition.top_k, configuration.competition.metric
        self.gallery_ids = gallery_ids(configuration)
        self.labelled = study_queries(configuration, self.gallery_ids)
        self.space = space_of(configuration, recipe)
        self.choice_lists = self.space.choice_lists
        self._made: dict[str, Combination] = {}
        self._prepared: dict[str, Prepared] = {}
        self._precisions: dict[tuple[str, bytes], np.ndarray] = {}
        self._inside: dict[tuple[str, bytes], Scene] = {}

    def dumps(self, choice: Choice) -> tuple[list, list]:
        """Open the query and gallery dumps of a choice, as they are before any step."""
        components = self.space.components_of(choice)
        return (
            open_queries(self.configuration, components, self.labelled),
            open_components(self.configuration, components, "gallery", self.gallery_ids),
        )

    @cached_property
    def cache_bytes(self) -> int:
        """What candidates and steps may keep on the disk: as configured, or twice the gallery's dumps."""
        if self.configuration.tuning.cache_gib is not None:
            return int(self.configuration.tuning.cache_gib * 2**30)
        gallery = self.dumps(self.space.default)[1]
        return max(LEAST_CACHE, 2 * sum(dump.descriptors.nbytes for dump in gallery))

    def _budget(self):
        return budget([self.work / "candidates", self.work / "ranking"], self.cache_bytes)

    def steps(self, choice: Choice) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """Return the steps of a choice that no weights change, and those after them."""
        return split_steps(self.space.steps_of(choice))

    def prepared(self, choice: Choice) -> Prepared:
        """Return the dumps of a choice after the steps that no weights change."""
        components, (own, _) = self.space.components_of(choice), self.steps(choice)
        key = _key(components, own)
        if key not in self._prepared:
            while len(self._prepared) >= KEPT_DUMPS:
                self._prepared.pop(next(iter(self._prepared)))
            with self._budget():
                self._prepared[key] = prepare(
                    components,
                    *self.dumps(choice),
                    own,
                    list_depth(self.metric, self.top_k, len(self.gallery_ids)),
                    self.work / "ranking",
                    photos=photos_for(
                        self.configuration, components, self.space.steps_of(choice), self.gallery_ids
                    ),
                    simulated=int((~self.labelled.real).sum()),
                    progress=self.progress,
                )
        return self._prepared[key]

    def combination(self, choice: Choice) -> Combination:
        """Return the combination of `choice`: lossless candidates of its own, or a ranking of the whole gallery at each
        trial where the steps depend on the weights, or the metric on whole lists."""
        own, after = self.steps(choice)
        key = _key(self.space.components_of(choice), [*own, *after])
        if key not in self._made:
            in_full = after or self.metric == WHOLE_LISTS
            made = self._ranked_in_full(choice) if in_full else self._with_candidates(choice)
            self._made[key] = made if made.scene is not None else self._remembering(made, key)
            _let_go(self._made, lambda made: 0 if made.scene is None else made.scene.size_bytes)
        return self._made[key]

    def _study_corners(self, choice: Choice, corners: np.ndarray) -> np.ndarray:
        """The vertices (J, L); where a step joins the components, each of the study's coordinates is the one left."""
        return np.ones((len(self.space.components_of(choice)), 1)) if self._joined(choice) else corners

    def _joined(self, choice: Choice) -> bool:
        return any(map(joins, self.steps(choice)[0]))

    def recipe_weights(self, choice: Choice, coordinates: np.ndarray) -> np.ndarray:
        """Return the weights of a point as a recipe holds them, (L,): equal ones where a step joins the components."""
        count = len(self.space.components_of(choice))
        if self._joined(choice):
            return np.full(count, 1.0 / count)
        return self.combination(choice).weights(coordinates)

    def _with_candidates(self, choice: Choice) -> Combination:
        components, (queries, gallery) = self.space.components_of(choice), self.dumps(choice)
        if self.steps(choice)[0]:
            prepared = self.prepared(choice)
            components, queries, gallery = prepared.components, prepared.queries, prepared.gallery
        with self._budget():
            made = make_combination(
                components,
                queries,
                gallery,
                self.labelled.relevant,
                self.labelled.summed,
                self.top_k,
                self.configuration.tuning.region,
                self.work / "candidates",
                progress=self.progress,
                say=_say,
                metric=self.metric,
            )
        scene = None if made.scene is None else replace(made.scene, weight=self.labelled.weight)
        return replace(made, corners=self._study_corners(choice, made.corners), scene=scene)

    def _remembering(self, made: Combination, key: str) -> Combination:
        """The combination that ranks the whole gallery once a point: one pass serves all that ask for its precisions."""

        def stream(weights: np.ndarray) -> np.ndarray:
            at = (key, weights.tobytes())
            if at not in self._precisions:
                self._precisions[at] = made.stream(weights)
            return self._precisions[at]

        return replace(made, stream=stream)

    def _ranked_in_full(self, choice: Choice) -> Combination:
        begun = time.perf_counter()
        prepared, region = self.prepared(choice), self.configuration.tuning.region
        mean_similarity = mean_similarities(prepared.queries, prepared.gallery, self.labelled.summed)
        chains = region_chains([component.chain for component in prepared.components], region)
        sums = layer_sums(mean_similarity, region)
        corners = vertices(sums, chains, [component.name for component in prepared.components])
        corners = self._study_corners(choice, corners)

        def stream(weights: np.ndarray) -> np.ndarray:
            return self.full_precisions(choice, weights, corners)

        return Combination(
            prepared.components,
            mean_similarity,
            sums,
            chains,
            corners,
            None,
            stream,
            time.perf_counter() - begun,
            float(len(self.gallery_ids)),
        )

    def full_precisions(self, choice: Choice, weights: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Return AP@k of every labelled query by ranking the whole gallery through all steps, (Q,) float64.

        weights (L,): any, of the region or not, without meaning where a step joins the components; corners (J, L): the
        region's, which a cascade's stages may name.
        """
        _, after = self.steps(choice)
        weights = np.ones(1) if self._joined(choice) else weights
        long = self.progress and len(self.gallery_ids) > LARGE_GALLERY
        ranks = self.prepared(choice).lists(
            np.asarray(weights), with_weights(after, weights, corners), progress=long
        )
        return query_figures(ranks, self.labelled.relevant, self.top_k, self.metric, self.labelled.junk)

    def recipe_steps(self, choice: Choice, weights: np.ndarray) -> tuple[Step, ...]:
        """Return the steps of a choice under `weights` as a recipe holds them: numbers only."""
        own, after = self.steps(choice)
        corners = self.combination(choice).corners
        if self._joined(choice):
            corners = np.tile(weights, (len(weights), 1))
        return (*own, *with_weights(after, weights, corners))

    def kind(self, choice: Choice) -> str:
        """Say how a trial of `choice` is evaluated."""
        own, after = ([str(step["step"]) for step in steps] for steps in self.steps(choice))
        if self.metric == WHOLE_LISTS:
            return f"full gallery ({', '.join(['mAP ranks everything', *own, *after])})"
        if after:
            return f"full gallery ({', '.join([*own, *after])})"
        return f"own candidates ({', '.join(own)})" if own else "candidates (plain fusion)"

    def map_inside(self, choice: Choice, coordinates: np.ndarray, inside: np.ndarray) -> float:
        """Return MAP@k over the queries of `inside` (Q,) bool, each counted by its weight."""
        combination = self.combination(choice)
        weights = combination.weights(coordinates)
        if combination.scene is not None:
            value = mean_average_precision(self._scene_inside(choice, inside), weights)
        else:
            values = combination.average_precisions(weights)[inside]
            value = float(np.average(values, weights=self.labelled.weight[inside]))
        if not np.isfinite(value):
            raise Top7Error(
                f"{figure_name(self.metric, self.top_k)} came out as {value}: descriptors are not finite; run ./run.sh extract again"
            )
        return value

    def _scene_inside(self, choice: Choice, inside: np.ndarray) -> Scene:
        key = (json.dumps(dict(choice), sort_keys=True), inside.tobytes())
        if key not in self._inside:
            self._inside[key] = self.combination(choice).scene.of_queries(inside)
            _let_go(self._inside, lambda scene: scene.size_bytes)
        return self._inside[key]

    def all_choices(self) -> list[dict[str, Any]]:
        """Return every combination of choices of the study, its first values first."""
        return [dict(zip(self.choice_lists, values)) for values in product(*self.choice_lists.values())]

    def kept_files(self) -> tuple[int, int]:
        """Return how many files stand in work/candidates and work/ranking, of this and of earlier configurations, and
        their bytes. All can be made again, so all may be deleted."""
        sizes = [
            path.stat().st_size
            for name in ("candidates", "ranking")
            for path in (self.work / name).rglob("*")
            if path.is_file()
        ]
        return len(sizes), sum(sizes)

    def study_name(self) -> str:
        """Name what a trial's value depends on: a study of other data, other choices or another search is another study."""
        tuning, competition = self.configuration.tuning, self.configuration.competition
        described = {
            "choices": {name: list(values) for name, values in self.choice_lists.items()},
            "region": tuning.region,
            "gallery": ids_digest(self.gallery_ids),
            "queries": ids_digest(self.labelled.query_ids),
            "relevant": [rows.tolist() for rows in self.labelled.relevant],
            "top_k": competition.top_k,
            "private": np.flatnonzero(self.labelled.private).tolist(),
            "sampler": tuning.sampler,
            "dumps": self.identity(),
            "search": SEARCH,
        }
        described |= {} if self.metric == "map" else {"metric": self.metric}
        if self.metric == WHOLE_LISTS:
            described["junk"] = [rows.tolist() for rows in self.labelled.junk]
        objective = objective_of(self.configuration)
        if objective != "labels":
            described["objective"] = [objective, self.labelled.weight.tolist()]
        if self.space.steps:
            described["steps"] = [
                [step.name, step.optional, {key: list(values) for key, values in step.values.items()}]
                for step in self.space.steps
            ]
            photos = self._photos()
            described |= {} if photos is None else {"photos": photos.identity}
        if self.space.recipe is not None:
            described["recipe"] = [
                [part.name for part in self.space.recipe.components],
                list(self.space.recipe.weights),
            ]
        return f"{competition.name}-{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]}"

    def _photos(self) -> Photos | None:
        """What the steps of the first choice learn from, whichever shares of real pairs and user photos they may take."""
        steps = [
            {"step": step.name, key: share}
            for step in self.space.steps
            for key in ("pairs", "unlabelled")
            for share in step.values.get(key, (0,))
        ]
        components = self.space.components_of(self.space.default)
        return photos_for(self.configuration, components, steps, self.gallery_ids)

    def identity(self) -> list[str]:
        """The dump files of the first choice, whose names hold the digest of what made them, and the boxes cut out."""
        queries, gallery = self.dumps(self.space.default)
        cut = {dump.path.parent.name for dump in (*queries, *gallery)}
        return sorted(dump.path.name for dump in gallery) + sorted(
            name for name in cut if name.startswith("cut-")
        )


def _let_go(kept: dict, size: Callable[[object], int]) -> None:
    """Let go of the oldest of what is kept, but not of the last, until it fits KEPT_BYTES."""
    total = sum(map(size, kept.values()))
    while total > KEPT_BYTES and len(kept) > 1:
        total -= size(kept.pop(next(iter(kept))))


def _key(components, steps) -> str:
    return json.dumps([[component.name for component in components], list(steps)], sort_keys=True)


def _say(text: str) -> None:
    log.info(text)
