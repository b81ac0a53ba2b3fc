"""The figure of each row of an experiment on one data set, query by query."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.trapezoid import trapezoid_precisions
from features.components import Component, layer_component
from features.descriptors import gallery_ids, open_components
from features.ranked_lists import ranked_lists
from features.recipes.recipe import Recipe
from submissions.experiments.evaluation_sets import EvaluationSet
from submissions.experiments.experiment import Experiment, TableRow
from submissions.experiments.networks import Learning, learning, parts_of_row
from tuning.certificate import certify
from tuning.combination import Combination, make_combination, mean_similarities
from tuning.evaluating import labelled_precisions
from tuning.labelled import labelled_queries
from tuning.region import REGIONS, contains, layer_sums, random_coordinates, region_chains, vertices

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


def row_figure(
    experiment: Experiment, row: TableRow, target: EvaluationSet, configuration: Configuration
) -> Figure:
    """Return the figure of a row; its dumps are there."""
    if not row.ours:
        return Figure(row, {}, note="published alone")
    learnt = learning(experiment, target)
    choices, notes = _components(row, configuration, learnt)
    if not choices:
        return Figure(row, {}, note="; ".join(notes))
    weights = np.array(row.weights or (1.0,) * len(choices[0]), dtype=np.float64)
    weights /= weights.sum()
    steps, more = _possible(row.steps, learnt)
    row, notes = replace(row, steps=steps), notes + more
    begun = time.perf_counter()
    if row.random:
        values, more = _random_points(row, choices[0], target, configuration)
    elif row.optimum:
        values, more = _optimum(str(row.optimum), choices[0], target, configuration)
    else:
        values, each = _mean([_values(seed, weights, row, target, configuration) for seed in choices])
        more = [f"± {np.std(each, ddof=1):.3f} over {len(each)} seeds"] if len(each) > 1 else []
    seconds = time.perf_counter() - begun
    notes += more
    if experiment.membership and row.weights:
        notes.append(_membership(weights, choices[0], configuration))
    return Figure(row, values, seconds, "; ".join(notes))


def _components(
    row: TableRow, configuration: Configuration, learnt: Learning
) -> tuple[list[tuple[Component, ...]], list[str]]:
    """Return the components of each seed of a row, with notes on them; none where the images are too few."""
    backbone = configuration.backbones[0]
    if row.parts is None:
        return [tuple(layer_component(backbone, layer, row.pooling) for layer in row.layers)], []
    dim = learnt.dim(row.parts)
    if not dim:
        return [], [f"not possible: M = {row.parts.dim} from {learnt.images} images"]
    notes = [f"M = {dim}: {learnt.images} images"] if dim != row.parts.dim else []
    if learnt.folder is None:
        notes.append("learnt on the gallery itself")
    return [(parts_of_row(backbone, row.parts, seed, dim),) for seed in range(row.seeds)], notes


def _possible(
    steps: Sequence[dict[str, Any]], learnt: Learning
) -> tuple[tuple[dict[str, Any], ...], list[str]]:
    """Return the steps, with whitening to the smaller M where fewer than two images a dimension would teach it."""
    found, notes = [], []
    for step in steps:
        if step["step"] == "whiten" and learnt.fallback_dim and 2 * step["dim"] > learnt.images:
            notes.append(f"whitened to {learnt.fallback_dim}: {learnt.images} images")
            step = {**step, "dim": learnt.fallback_dim}
        found.append(step)
    return tuple(found), notes


def _mean(each: Sequence[Values]) -> tuple[Values, list[float]]:
    """Return the mean over several runs, query by query, and the figure of each."""
    values = {level: np.mean([one[level] for one in each], axis=0) for level in each[0]}
    return values, [float(np.nanmean(next(iter(one.values())))) for one in each]


def _values(
    components: Sequence[Component],
    weights: np.ndarray,
    row: TableRow,
    target: EvaluationSet,
    configuration: Configuration,
) -> Values:
    """Return the figure of every query by level, each under its data set's protocol."""
    recipe = Recipe("reproduce", tuple(components), tuple(weights), steps=row.steps)
    ids = gallery_ids(configuration)
    if target.dataset is not None and target.dataset.metric == "mAP":
        lists = ranked_lists(configuration, recipe, "validation", target.dataset.queries.ids, ids, k=len(ids))
        return {
            level: trapezoid_precisions(list(lists.ranks), truth.positives, truth.junk)
            for level, truth in target.dataset.truths.items()
        }
    return {"all": labelled_precisions(configuration, recipe, labelled_queries(configuration, ids))}


def _random_points(
    row: TableRow, components: Sequence[Component], target: EvaluationSet, configuration: Configuration
) -> tuple[Values, list[str]]:
    """Return the mean of random points of a region; for a whole-list mAP each ranks the whole gallery."""
    region = str(row.random)
    points = random_coordinates(RANDOM_POINTS, len(components), np.random.default_rng(0))
    if not target.whole_lists:
        made = _combination(region, components, configuration)
        each = [{"all": made.average_precisions(made.weights(point))} for point in points]
    else:
        sums = layer_sums(_mean_similarities(components, configuration), region)
        chains = region_chains([component.chain for component in components], region)
        corners = vertices(sums, chains, [component.name for component in components])
        each = [_values(components, point @ corners, row, target, configuration) for point in points]
    values, found = _mean(each)
    return values, [f"median {np.median(found):.3f}"]


def _optimum(
    region: str, components: Sequence[Component], target: EvaluationSet, configuration: Configuration
) -> tuple[Values, list[str]]:
    """Return the certified optimum of a region on these very queries."""
    if target.whole_lists:
        return {}, ["not possible: a whole-list mAP has no certificate"]
    made = _combination(region, components, configuration)
    if made.padded is None:
        return {}, ["not possible: too many candidates to certify"]
    found = certify([made.padded], [made.corners], OPTIMUM_SECONDS)
    weights = made.weights(found.coordinates)
    text = f"weights {', '.join(f'{w:.3f}' for w in weights)}; bound {found.bound:.4f}"
    return {"all": made.average_precisions(weights)}, [text, "chosen on these queries"]


def _combination(region: str, components: Sequence[Component], configuration: Configuration) -> Combination:
    ids, competition = gallery_ids(configuration), configuration.competition
    labelled = labelled_queries(configuration, ids)
    return make_combination(
        components,
        open_components(configuration, components, "validation", labelled.query_ids),
        open_components(configuration, components, "gallery", ids),
        labelled.relevant,
        np.ones(len(labelled.query_ids), dtype=bool),
        competition.top_k,
        region,
        None,
        metric=competition.metric,
    )


def _mean_similarities(components: Sequence[Component], configuration: Configuration) -> np.ndarray:
    queries = open_components(configuration, components, "validation", None)
    gallery = open_components(configuration, components, "gallery", None)
    return mean_similarities(queries, gallery, np.ones(len(queries[0].ids), dtype=bool))


def _membership(weights: np.ndarray, components: Sequence[Component], configuration: Configuration) -> str:
    """Say whether weights lie in the region under each reading of S: similarities, distances, and S of each query."""
    chains = [component.chain for component in components]
    mean = _mean_similarities(components, configuration)
    found = []
    for region in REGIONS[:2]:
        inside = contains(weights, layer_sums(mean, region), chains, tolerance=1e-9)
        found.append(f"{'in' if inside else 'outside'} the region ({region})")
    queries = open_components(configuration, components, "validation", None)
    gallery = open_components(configuration, components, "gallery", None)
    sums = np.stack(
        [q.descriptors.astype(np.float64) @ g.column_sum(g.unreadable) for q, g in zip(queries, gallery)],
        axis=1,
    )
    own = np.mean([contains(weights, s, chains) for s in sums[(sums > 0).all(axis=1)]])
    return ", ".join(found) + f", with S of each query for {100 * own:.0f} % of them"
