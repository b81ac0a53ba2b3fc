"""All that `tune` found, and what the study's best point is worth on queries that did not choose it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import optuna
import pandas

from competition.progress import Progress
from features.recipes.recipe import Recipe
from tuning import study as studies
from tuning import validation
from tuning.best import Point
from tuning.certificate import Certificate
from tuning.combination import Combination
from tuning.described import parameter_name
from tuning.forecast import Kind
from tuning.labelled import Labelled
from tuning.landscape import Landscape
from tuning.named_points import NamedPoint, named_points
from tuning.region import random_coordinates
from tuning.samplers import mixed_seed
from tuning.validation import Comparison, CrossValidated, compare

NEAR_POINTS, FULL_NEAR_POINTS = 500, 10  # drawn from the region; fewer where each ranks the whole gallery


@dataclass
class Tuned:
    """All that `tune` found.

    kinds: of trials, with what one costs; untuned: equal weights of the first choices, or the recipe under study as
    it is, with its AP@k (Q,); mixed: why the trials' figures do not compare; lucky: AP@k of each public query under
    trials that other queries chose, None for one group; earlier: the recipes that were kept before, by name; recipe:
    that of `point`, the study's best, written to `paths`; comparison: on queries that did not choose, None where there
    are none; misses: None where there are no candidates to explain them by.
    """

    landscape: Landscape
    study: optuna.Study
    plan: studies.TrialPlan
    kinds: list[Kind]
    new_trials: int
    untuned: Recipe
    untuned_values: np.ndarray
    mixed: str | None
    point: Point
    lucky: np.ndarray | None
    earlier: dict[str, Recipe]
    certificate: Certificate | None = None
    cross_validated: CrossValidated | None = None
    comparison: Comparison | None = None
    misses: pandas.DataFrame | None = None
    paths: dict[str, Path] = field(default_factory=dict)
    recipe: Recipe = field(init=False)

    @property
    def labelled(self) -> Labelled:
        """The queries."""
        return self.landscape.labelled

    @property
    def combination(self) -> Combination:
        """That of the best point."""
        return self.landscape.combination(self.point.choice)

    @property
    def values(self) -> np.ndarray:
        """AP@k (Q,) of the best point."""
        return self.landscape.precisions(self.point.choice, self.point.coordinates)

    @property
    def bias_corrected(self) -> float | None:
        """MAP@k on the public queries without the luck of the best of many trials."""
        return self.recipe.scores.get("bias-corrected")

    @property
    def trials(self) -> int:
        """Trials that the study holds."""
        return len(studies.completed(self.study))

    @cached_property
    def named(self) -> list[NamedPoint]:
        """Points worth knowing under the best's choices, by full ranking."""
        made, choice = self.combination, self.point.choice
        return named_points(made, lambda w: self.landscape.full_precisions(choice, w, made.corners))

    @cached_property
    def importances(self) -> dict[str, float]:
        """How much of the figure's variance each parameter explains (fANOVA), by names that say what it is.

        None are given where all trials agree.
        """
        finished, components = studies.completed(self.study), self.recipe.components
        if len(finished) < 10 or len({trial.value for trial in finished}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        if len({len(studies.coordinate_names(trial.params)) for trial in finished}) > 1:
            for name in studies.coordinate_names(tuple(found)):  # another component's by choice
                del found[name]
        return {parameter_name(name, components): float(value) for name, value in found.items()}

    @cached_property
    def near_best_share(self) -> float:
        """The share of the region within one standard error of the best."""
        return near_best_share(self.combination, self.values, self.labelled)


def judge(best: Recipe, tuned: Tuned) -> Comparison | None:
    """Note in the recipe `best`, of the study's best point, what it is worth on queries that did not choose it.

    "validated" is the figure on all labelled queries (without labels: all photos), cross-validated or bias-corrected on
    the public ones and the recipe's own on the others, so that it compares with an untuned recipe's. Cross-validated and
    bias-corrected are of the public ones that are most like new ones (`Labelled.representative`). Returns the comparison
    with the untuned one, over all that judged the study; None where no other queries chose, as with one group.
    """
    labelled, lucky, found = tuned.labelled, tuned.lucky, tuned.cross_validated
    public = labelled.public
    unseen = lucky if found is None else found.out_of_fold.mean(axis=0)
    if unseen is None:
        return None
    values = tuned.values.copy()
    values[public] = unseen
    if lucky is not None:
        best.scores["bias-corrected"] = float(lucky[labelled.representative[public]].mean())
    best.scores["validated"] = float(values[labelled.reported].mean())
    if found is not None:
        best.scores["cross-validated"] = found.mean
    best.provenance["validated by"] = _validated_by(labelled, found, tuned.certificate)
    groups, weight = labelled.groups[public], labelled.weight[public]
    comparison = compare(unseen, tuned.untuned_values[public], groups, weight=weight)
    if comparison.within_noise:
        best.provenance["within noise of"] = "untuned"
    return comparison


def _validated_by(labelled: Labelled, found: CrossValidated | None, certificate: Certificate | None) -> str:
    if labelled.real.any() and not (labelled.public & labelled.real).any():
        return "labels, none of which chose it"
    how = "bootstrap bias correction" if found is None else "cross-validation"
    return how if certificate is None else f"{how} of the study without the certificate"


def without_luck(landscape: Landscape, study: optuna.Study, seed: int) -> np.ndarray | None:
    """Return AP@k of each public query under trials that other queries chose (bootstrap); None for one group.

    A trial's precisions are those noted, or come from the candidates.
    """
    labelled, public, rows = landscape.labelled, landscape.labelled.public, []
    for trial in sorted(studies.completed(study), key=lambda trial: str(sorted(trial.params.items()))):
        noted = trial.user_attrs.get(studies.PRECISIONS, ())
        if len(noted) != len(public):
            noted = landscape.precisions(*studies.point_of(trial.params))
        rows.append(np.asarray(noted)[public])
    groups, weight = labelled.groups[public], labelled.weight[public]
    return validation.bias_corrected(np.array(rows), groups, seed=seed, weight=weight)


def cross_validated(
    landscape: Landscape, plan: studies.TrialPlan, folds: int, repeats: int
) -> CrossValidated:
    """Run the same study inside each fold of the public queries, and score its best point outside it."""
    labelled = landscape.labelled
    public = np.flatnonzero(labelled.public)
    groups, told = labelled.groups[public], labelled.representative[public]
    folds = min(folds, len(np.unique(groups)))
    with Progress(total=folds * repeats, unit="fold", desc="cross-validate") as bar:

        def tune_inside(inside: np.ndarray, fold_seed: int) -> np.ndarray:
            mask = np.isin(np.arange(len(labelled.groups)), public[inside])
            study = studies.open_study(optuna.storages.InMemoryStorage(), "fold")
            own = replace(plan, seed=mixed_seed(plan.seed, fold_seed + 1))
            studies.run_trials(study, own, partial(landscape.map_inside, inside=mask))
            bar.update()
            return landscape.precisions(*studies.point_of(study.best_trial.params))[public]

        return validation.cross_validate(tune_inside, groups, told, folds, repeats, plan.seed)


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
