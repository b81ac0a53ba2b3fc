"""The figure of each row of an experiment on one data set, query by query."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.messages import log
from competition.metrics import trapezoid_precisions
from features.components import Component, layer_component
from features.descriptors import gallery_ids, open_components
from features.dumps import Dump
from features.ranked_lists import ranked_lists
from features.recipes.recipe import Recipe
from submissions.experiments.evaluation_sets import EvaluationSet, learning, parts_of_row
from submissions.experiments.experiment import Experiment, TableRow
from tuning.certificate import certify
from tuning.combination import Combination, in_region, mean_similarities, open_combination
from tuning.evaluating import labelled_precisions
from tuning.labelled import labelled_queries
from tuning.region import REGIONS, contains, layer_sums, random_coordinates

RANDOM_POINTS = 100
OPTIMUM_SECONDS = 120.0

Values = dict[str, np.ndarray]  # level -> (Q,), one a query


@dataclass(frozen=True)
class Figure:
    """What a row gave on one data set. values: level -> (Q,), one a query; empty with the reason in `note`."""

    row: TableRow
    values: Mapping[str, np.ndarray]
    seconds: float = 0.0
    note: str = ""


def row_figure(experiment: Experiment, row: TableRow, target: EvaluationSet) -> Figure:
    """Return the figure of a row; its dumps are there."""
    log.info("%s: %s", experiment.name, row.label)
    if not row.ours:
        return Figure(row, {}, note="published alone")
    learnt, backbone, notes = learning(experiment, target), target.configuration.backbones[0], []
    if row.parts is None:
        choices = [tuple(layer_component(backbone, layer, row.pooling) for layer in row.layers)]
    elif dim := learnt.dim(row.parts):
        choices = [(parts_of_row(backbone, row.parts, seed, dim),) for seed in range(row.seeds)]
        notes += [f"M = {dim}: {learnt.images} images"] if dim != row.parts.dim else []
        notes += ["learnt on the gallery itself"] if learnt.folder is None else []
    else:
        note = f"not possible: M = {row.parts.dim} from {learnt.images} images"
        return Figure(row, {}, note=note)
    weights = np.array(row.weights or (1.0,) * len(choices[0]), dtype=np.float64)
    weights /= weights.sum()
    steps = []
    for step in row.steps:  # whitened to the smaller M where fewer than two images a dimension would teach it
        if step["step"] == "whiten" and learnt.fallback_dim and 2 * step["dim"] > learnt.images:
            notes.append(f"whitened to {learnt.fallback_dim}: {learnt.images} images")
            step = {**step, "dim": learnt.fallback_dim}
        steps.append(step)
    begun = time.perf_counter()
    if row.random:
        values, more = _random_points(row.random, choices[0], target)
    elif row.optimum:
        values, more = _optimum(row.optimum, choices[0], target)
    else:
        values, each = _mean([_values(seed, weights, target, steps) for seed in choices])
        more = [f"± {np.std(each, ddof=1):.3f} over {len(each)} seeds"] if len(each) > 1 else []
    seconds = time.perf_counter() - begun
    notes += more
    if experiment.membership and row.weights:
        notes.append(_membership(weights, choices[0], target.configuration))
    return Figure(row, values, seconds, "; ".join(notes))


def _mean(each: Sequence[Values]) -> tuple[Values, list[float]]:
    """Return the mean over several runs, query by query, and the figure of each."""
    values = {level: np.mean([one[level] for one in each], axis=0) for level in each[0]}
    return values, [float(np.nanmean(next(iter(one.values())))) for one in each]


def _values(
    components: Sequence[Component],
    weights: np.ndarray,
    target: EvaluationSet,
    steps: Sequence[dict[str, Any]] = (),
) -> Values:
    """Return the figure of every query by level, each under its data set's protocol."""
    recipe = Recipe("reproduce", tuple(components), tuple(weights), steps=tuple(steps))
    configuration, dataset = target.configuration, target.dataset
    ids = gallery_ids(configuration)
    if dataset is not None and dataset.metric == "mAP":
        lists = ranked_lists(configuration, recipe, "validation", dataset.queries.ids, ids, k=len(ids))
        return {
            level: trapezoid_precisions(list(lists.ranks), truth.positives, truth.junk)
            for level, truth in dataset.truths.items()
        }
    return {"all": labelled_precisions(configuration, recipe, labelled_queries(configuration, ids))}


def _random_points(
    region: str, components: Sequence[Component], target: EvaluationSet
) -> tuple[Values, list[str]]:
    """Return the mean of random points of a region; for a whole-list mAP each ranks the whole gallery."""
    points = random_coordinates(RANDOM_POINTS, len(components), np.random.default_rng(0))
    if not target.whole_lists:
        made = _combination(region, components, target.configuration)
        each = [{"all": made.average_precisions(made.weights(point))} for point in points]
    else:
        made = in_region(components, _mean_similarities(components, target.configuration), region)
        each = [_values(components, point @ made.corners, target) for point in points]
    values, found = _mean(each)
    return values, [f"median {np.median(found):.3f}"]


def _optimum(region: str, components: Sequence[Component], target: EvaluationSet) -> tuple[Values, list[str]]:
    """Return the certified optimum of a region on these very queries."""
    if target.whole_lists:
        return {}, ["not possible: a whole-list mAP has no certificate"]
    made = _combination(region, components, target.configuration)
    if made.padded is None:
        return {}, ["not possible: too many candidates to certify"]
    found = certify([made.padded], [made.corners], OPTIMUM_SECONDS)
    weights = made.weights(found.coordinates)
    text = f"weights {', '.join(f'{w:.3f}' for w in weights)}; bound {found.bound:.4f}"
    return {"all": made.average_precisions(weights)}, [text, "chosen on these queries"]


def _combination(region: str, components: Sequence[Component], configuration: Configuration) -> Combination:
    labelled = labelled_queries(configuration, gallery_ids(configuration))
    every = replace(labelled, private=np.zeros(len(labelled.query_ids), dtype=bool))
    return open_combination(configuration, components, every, region)


def _mean_similarities(components: Sequence[Component], configuration: Configuration) -> np.ndarray:
    queries, gallery = _opened(components, configuration)
    return mean_similarities(queries, gallery, np.ones(len(queries[0].ids), dtype=bool))


def _opened(components: Sequence[Component], configuration: Configuration) -> list[list[Dump]]:
    return [open_components(configuration, components, split, None) for split in ("validation", "gallery")]


def _membership(weights: np.ndarray, components: Sequence[Component], configuration: Configuration) -> str:
    """Say whether weights lie in the region under each reading of S: similarities, distances, and S of each query."""
    chains = [component.chain for component in components]
    mean = _mean_similarities(components, configuration)
    found = []
    for region in REGIONS[:2]:
        inside = contains(weights, layer_sums(mean, region), chains, tolerance=1e-9)
        found.append(f"{'in' if inside else 'outside'} the region ({region})")
    pairs = zip(*_opened(components, configuration))
    sums = np.stack([q.descriptors.astype(np.float64) @ g.column_sum(g.unreadable) for q, g in pairs], axis=1)
    own = np.mean([contains(weights, s, chains) for s in sums[(sums > 0).all(axis=1)]])
    return ", ".join(found) + f", with S of each query for {100 * own:.0f} % of them"
