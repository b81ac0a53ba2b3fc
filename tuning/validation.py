"""Validation that resembles a leaderboard: what to expect of tuning on new queries, and whether a gain is chance.

Queries that share a correct image are one group; folds, resamples and sign flips move groups whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from competition.splits import bootstrap_groups, folds


@dataclass(frozen=True)
class CrossValidated:
    """Repeated k-fold over groups.

    out_of_fold: (repeats, Q) AP of each query under weights tuned without its fold; mean: MAP@k to expect of tuning
    on queries that it did not see; spread: standard deviation of the folds' MAP; interval: 95 %, see `figure_interval`.
    """

    out_of_fold: np.ndarray
    mean: float
    spread: float
    interval: tuple[float, float] | None

    def figures(self) -> dict[str, object]:
        """Return mean, interval and spread as plain values."""
        return {"mean": self.mean, "interval": self.interval and list(self.interval), "spread": self.spread}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison over groups.

    gain: mean difference; interval: 95 %, None for a single group; p: how often chance alone gives as much;
    wins, ties, losses: queries.
    """

    gain: float
    interval: tuple[float, float] | None
    p: float
    wins: int
    ties: int
    losses: int

    @property
    def within_noise(self) -> bool:
        """Whether chance alone may have made the gain (p above 0.05)."""
        return self.p > 0.05


def cross_validate(
    tune_inside: Callable[[np.ndarray, int], np.ndarray],
    groups: np.ndarray,
    told: np.ndarray | None = None,
    n_folds: int = 5,
    repeats: int = 2,
    seed: int = 0,
) -> CrossValidated:
    """Tune inside each fold and score outside it.

    tune_inside(inside (Q,) bool, seed) -> average precisions (Q,) of all queries under what was tuned on
    `inside`; groups: (Q,); told: (Q,) bool, the queries whose figures are given (None: all). With fewer groups than
    folds there are as many folds as groups (at least two groups are needed).
    """
    groups = np.asarray(groups)
    told = np.ones(len(groups), dtype=bool) if told is None else told
    n_folds = min(n_folds, len(np.unique(groups)))
    values = np.zeros((repeats, len(groups)))
    fold_maps = []
    for repeat in range(repeats):
        fold_of = folds(groups, n_folds, seed + repeat)
        for fold in range(n_folds):
            outside = fold_of == fold
            precisions = tune_inside(~outside, seed + 1000 * repeat + fold)
            values[repeat, outside] = precisions[outside]
            if (outside & told).any():
                fold_maps.append(precisions[outside & told].mean())
    interval = figure_interval(values.mean(axis=0)[told], groups[told])
    return CrossValidated(values, float(values[:, told].mean()), float(np.std(fold_maps)), interval)


def bias_corrected(
    precisions: np.ndarray,
    groups: np.ndarray,
    *,
    n_samples: int = 1000,
    seed: int = 0,
    weight: np.ndarray | None = None,
) -> np.ndarray | None:
    """Return the best trial's figure on queries that did not choose it, one value a query, (Q,) float64.

    Bootstrap bias correction (Tsamardinos et al. 2018): each resample of groups chooses its best trial, which
    counts for the groups left out of it. precisions: (trials, Q), of equals the first trial is chosen;
    weight: (Q,) of the queries in the mean that chooses. None for one group.
    """
    groups = np.asarray(groups)
    if len(np.unique(groups)) < 2:
        return None
    precisions = np.asarray(precisions, dtype=np.float64)
    counts = bootstrap_groups(groups, n_samples, seed)
    weighed = counts * _weight(weight, groups)
    means = weighed @ precisions.T / weighed.sum(axis=1, keepdims=True)
    chosen = precisions[np.argmax(np.round(means, 12), axis=1)]
    outside = counts == 0
    return (chosen * outside).sum(axis=0) / np.maximum(outside.sum(axis=0), 1)


def standard_error(values: np.ndarray, groups: np.ndarray, weight: np.ndarray | None = None) -> float | None:
    """Return the standard error of the mean of `values` (Q,) where groups are drawn whole; None for a single group."""
    values, weight = np.asarray(values, dtype=np.float64), _weight(weight, groups)
    sums = _group_sums(weight * (values - np.average(values, weights=weight)), groups)
    if len(sums) < 2:
        return None
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def group_interval(
    values: np.ndarray, groups: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of `values` (Q,), Student's t over groups; None for a single group.

    On differences that are mostly zero it covers 96 to 99 %, BCa 87 to 93; below 30 groups of skewed AP 89
    (BENCHMARKS.md).
    """
    error = standard_error(values, groups, weight)
    if error is None:
        return None
    half = float(stats.t.ppf(0.975, len(np.unique(groups)) - 1)) * error
    mean = float(np.average(values, weights=weight))
    return mean - half, mean + half


def figure_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float] | None:
    """Return `group_interval` of values between 0 and 1, within which their mean lies for certain."""
    interval = group_interval(values, groups)
    return None if interval is None else (max(0.0, interval[0]), min(1.0, interval[1]))


def smallest_gain(
    differences: np.ndarray, groups: np.ndarray, weight: np.ndarray | None = None
) -> float | None:
    """Return the gain that four of five samples as large as this one would show (one-sided, 5 %); None for one group.

    differences (Q,): between two recipes as unlike as those to be compared.
    """
    error = standard_error(differences, groups, weight)
    if error is None:
        return None
    return float(stats.t.ppf([0.95, 0.8], len(np.unique(groups)) - 1).sum()) * error


def compare(
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    two_sided: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare two recipes by their average precisions on the same queries: the gain of `first` over `second`.

    p: of a randomisation test, the signs of whole groups flipped: exact where 13 groups or fewer differ, else
    of 9,999 draws; for a gain, or (two_sided) for a difference either way.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    difference[np.abs(difference) < 1e-12] = 0.0
    sums = _group_sums(_weight(weight, groups) * difference, groups)
    sums = sums[np.abs(sums) >= 1e-12]  # a group without a difference is the same under either sign
    p = 1.0
    if len(sums):
        p = stats.permutation_test(
            (np.append(sums, 0.0),),  # scipy wants two values at least
            lambda flipped, axis: flipped.sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=2**14 if len(sums) <= 13 else 9999,
            batch=1000,
            alternative="two-sided" if two_sided else "greater",
            rng=np.random.default_rng(seed),
        ).pvalue
    gain, interval = float(np.average(difference, weights=weight)), group_interval(difference, groups, weight)
    counts = (int((np.sign(difference) == sign).sum()) for sign in (1, 0, -1))
    return Comparison(gain, interval, float(p), *counts)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons corrected for their number (Holm 1979), in the order given."""
    order, found = np.argsort(values, kind="stable"), np.empty(len(values))
    found[order] = np.maximum.accumulate(np.arange(len(values), 0, -1) * np.take(values, order))
    return np.minimum(found, 1.0).tolist()


def _weight(weight: np.ndarray | None, groups: np.ndarray) -> np.ndarray:
    """(Q,) weights of mean 1."""
    return np.ones(len(groups)) if weight is None else weight / np.mean(weight)


def _group_sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values)
