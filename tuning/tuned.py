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
from tuning.forecast import Kind
from tuning.labelled import Labelled
from tuning.landscape import Landscape
from tuning.misses import Miss
from tuning.named_points import NamedPoint, named_points
from tuning.validation import Comparison, CrossValidated
from tuning.verdict import importances, near_best_share


@dataclass
class Tuned:
    """All that `tune` found.

    kinds: of trials, with what one costs; untuned: equal weights of the first choices, or the recipe under study as it
    is; mixed: why the trials' figures do not compare; recipe: that of `point`, the study's best, written to `paths`;
    comparison: on queries that did not choose, None where there are none, as with one group; misses: None where there
    are no candidates to explain them by.
    """

    landscape: Landscape
    study: optuna.Study
    kinds: list[Kind]
    new_trials: int
    untuned: Recipe
    mixed: str | None
    point: Point
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
        """How much of the figure's variance each parameter explains."""
        return importances(self.study)

    @cached_property
    def near_best_share(self) -> float:
        """The share of the region within one standard error of the best."""
        return near_best_share(self.combination, self.values, self.labelled)
