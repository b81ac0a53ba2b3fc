"""Validation that resembles a leaderboard: what tuning earns as a procedure, and whether a gain is real.

Queries that share a correct image are one group; folds and resamples move groups whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from competition.splits import bootstrap_groups, folds


@dataclass(frozen=True)
class CrossValidated:
    """Repeated k-fold over groups. out_of_fold: (repeats, Q) AP of each query under weights tuned without its fold;
    fold_maps: (repeats, n_folds) MAP of each fold; interval: 95 %, resampling groups."""

    out_of_fold: np.ndarray
    fold_maps: np.ndarray
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        """MAP@k that tuning as a procedure earns on queries it did not see."""
        return float(self.out_of_fold.mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the folds' MAP."""
        return float(self.fold_maps.std())


@dataclass(frozen=True)
class Comparison:
    """A paired comparison over groups. gain: mean difference; interval: 95 %; probability: that the gain is above 0."""

    gain: float
    interval: tuple[float, float]
    probability: float

    @property
    def within_noise(self) -> bool:
        """Whether the gain is not clearly above zero (probability below 0.95)."""
        return self.probability < 0.95


def cross_validate(
    tune_inside: Callable[[np.ndarray, int], Callable[[], np.ndarray]],
    groups: np.ndarray,
    *,
    n_folds: int = 5,
    repeats: int = 2,
    seed: int = 0,
) -> CrossValidated:
    """Tune inside each fold and score outside it.

    tune_inside(inside (Q,) bool, seed) -> average precisions (Q,) of all queries under what was tuned on `inside`;
    groups: (Q,). With fewer groups than folds there are as many folds as groups (at least two groups are needed).
    """
    groups = np.asarray(groups)
    n_folds = min(n_folds, len(np.unique(groups)))
    values = np.zeros((repeats, len(groups)))
    fold_maps = np.zeros((repeats, n_folds))
    for repeat in range(repeats):
        fold_of = folds(groups, n_folds, seed + repeat)
        for fold in range(n_folds):
            outside = fold_of == fold
            precisions = tune_inside(~outside, seed + 1000 * repeat + fold)
            values[repeat, outside] = precisions[outside]
            fold_maps[repeat, fold] = precisions[outside].mean()
    return CrossValidated(values, fold_maps, group_interval(values.mean(axis=0), groups, seed=seed))


def group_interval(
    values: np.ndarray, groups: np.ndarray, *, level: float = 0.95, n_samples: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of `values` (Q,), whole groups resampled."""
    means = resampled_means(values, groups, n_samples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_means(values: np.ndarray, groups: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """Return the mean of `values` (Q,) in each of `n_samples` resamples of whole groups."""
    counts = bootstrap_groups(groups, n_samples, seed)
    return counts @ np.asarray(values, dtype=np.float64) / counts.sum(axis=1)


def compare(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray, *, n_samples: int = 4000, seed: int = 0
) -> Comparison:
    """Compare two recipes by their average precisions on the same queries: the gain of `first` over `second`.

    Bootstrap over groups; a resample without difference counts half, so equal recipes have probability 0.5.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    means = resampled_means(difference, groups, n_samples, seed)
    means[np.abs(means) < 1e-12] = 0.0
    low, high = np.quantile(means, [0.025, 0.975])
    probability = float((means > 0).mean() + 0.5 * (means == 0).mean())
    return Comparison(float(difference.mean()), (float(low), float(high)), probability)
