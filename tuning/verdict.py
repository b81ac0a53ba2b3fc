"""What a study's best point is worth on queries that did not choose it, and how much its parameters matter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import optuna

from competition.progress import Progress
from tuning import study as studies
from tuning import validation
from tuning.combination import Combination
from tuning.labelled import Labelled
from tuning.landscape import Landscape
from tuning.region import random_coordinates
from tuning.samplers import mixed_seed
from tuning.validation import CrossValidated

NEAR_POINTS, FULL_NEAR_POINTS = 500, 10  # drawn from the region; fewer where each ranks the whole gallery


def trial_precisions(landscape: Landscape, study: optuna.Study) -> np.ndarray:
    """Return AP@k of every query under every finished trial, (trials, Q): as noted, or from the candidates."""
    rows = []
    for trial in sorted(studies.completed(study), key=lambda trial: str(sorted(trial.params.items()))):
        noted = trial.user_attrs.get(studies.PRECISIONS, ())
        if len(noted) == len(landscape.labelled.query_ids):
            rows.append(np.array(noted))
        else:
            rows.append(landscape.precisions(*studies.point_of(trial.params, landscape.choice_lists)))
    return np.array(rows)


def without_luck(landscape: Landscape, study: optuna.Study, seed: int) -> np.ndarray | None:
    """Return AP@k of each public query under trials that other queries chose (bootstrap); None for one group."""
    labelled, public = landscape.labelled, landscape.labelled.public
    precisions = trial_precisions(landscape, study)[:, public]
    return validation.bias_corrected(
        precisions, labelled.groups[public], seed=seed, weight=labelled.weight[public]
    )


def cross_validated(
    landscape: Landscape, plan: studies.TrialPlan, folds: int, repeats: int
) -> CrossValidated:
    """Run the same study inside each fold of the public queries, and score its best point outside it."""
    public = np.flatnonzero(landscape.labelled.public)
    groups = landscape.labelled.groups[public]
    folds = min(folds, len(np.unique(groups)))
    with Progress(total=folds * repeats, unit="fold", desc="cross-validate") as bar:

        def tune_inside(inside: np.ndarray, fold_seed: int) -> np.ndarray:
            mask = np.zeros(len(landscape.labelled.groups), dtype=bool)
            mask[public[inside]] = True
            storage = optuna.storages.InMemoryStorage()
            study = studies.open_study(storage, "fold")

            own = replace(plan, seed=mixed_seed(plan.seed, fold_seed + 1))
            studies.run_trials(study, own, partial(landscape.map_inside, inside=mask))
            bar.update()
            best = studies.point_of(study.best_trial.params, landscape.choice_lists)
            return landscape.precisions(*best)[public]

        told = landscape.labelled.representative[public]
        return validation.cross_validate(
            tune_inside, groups, n_folds=folds, repeats=repeats, seed=plan.seed, told=told
        )


def importances(study: optuna.Study) -> dict[str, float]:
    """Return how much of the figure's variance each parameter explains (fANOVA); empty where all trials agree."""
    finished = studies.completed(study)
    if len(finished) < 10 or len({trial.value for trial in finished}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if len({len(studies.coordinate_names(trial.params)) for trial in finished}) > 1:
        for name in studies.coordinate_names(tuple(found)):  # another component's by choice
            del found[name]
    return {name: float(value) for name, value in found.items()}


def near_best_share(combination: Combination, values: np.ndarray, labelled: Labelled) -> float:
    """Return the share of the region, drawn uniformly, within one standard error of the best's public MAP.

    values: (Q,) AP@k of the best; the standard error is over groups.
    """
    public = labelled.public
    weight = labelled.weight[public]
    error = validation.standard_error(values[public], labelled.groups[public], weight) or 0.0
    n_points = FULL_NEAR_POINTS if combination.padded is None else NEAR_POINTS
    points = random_coordinates(n_points, len(combination.corners), np.random.default_rng(0))
    found = [combination.average_precisions(combination.weights(point)) for point in points]
    maps = [float(np.average(each[public], weights=weight)) for each in [values, *found]]
    return float(np.mean([value >= maps[0] - error for value in maps[1:]]))
