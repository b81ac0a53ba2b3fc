"""All that `tune` found, for the report of it and for callers from Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna

from features.recipes.recipe import Recipe
from tuning import study as studies
from tuning.best import Point
from tuning.certificate import Certificate
from tuning.combination import Combination
from tuning.described import parameter_name
from tuning.forecast import Kind
from tuning.labelled import Labelled
from tuning.landscape import Landscape
from tuning.misses import Miss
from tuning.named_points import NamedPoint, named_points
from tuning.validation import Comparison, CrossValidated, compare
from tuning.verdict import importances, near_best_share, without_luck


@dataclass
class Tuned:
    """All that `tune` found.

    kinds: of trials, with what one costs; untuned: equal weights of the first choices, or the recipe under study as
    it is, with its AP@k (Q,); earlier: the recipes that were kept before, by name; mixed: why the trials' figures do
    not compare; recipe: that of `point`, the study's best, written to `paths`; comparison: on queries that did not
    choose, None where there are none, as with one group; misses: None where there are no candidates to explain them
    by.
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
    earlier: dict[str, Recipe]
    certificate: Certificate | None = None
    cross_validated: CrossValidated | None = None
    comparison: Comparison | None = None
    misses: list[Miss] | None = None
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

    @cached_property
    def lucky(self) -> np.ndarray | None:
        """AP@k of each public query under trials that other queries chose; None for one group."""
        return without_luck(self.landscape, self.study, self.plan.seed)

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
        return named_points(
            self.combination,
            lambda weights: self.landscape.full_precisions(
                self.point.choice, weights, self.combination.corners
            ),
        )

    @cached_property
    def importances(self) -> dict[str, float]:
        """How much of the figure's variance each parameter explains, by names that say what it is."""
        components, found = self.recipe.components, importances(self.study)
        return {parameter_name(name, components): value for name, value in found.items()}

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
