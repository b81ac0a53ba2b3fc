"""How often intervals cover and tests are wrong, in worlds where the truth is known: nominal and observed rates.

python -m tests.benchmarks.statistics [--worlds N]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from competition.splits import bootstrap_groups
from tuning.validation import bias_corrected, compare, group_interval


def main() -> None:
    """Print the tables of BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=400)
    worlds = parser.parse_args().worlds
    print(
        "| 95 % interval covers | groups | Student, groups | percentile bootstrap | BCa |\n| --- | --- | --- | --- | --- |"
    )
    for name, draw, truth in (
        ("AP of one recipe", precisions, 0.5 * 0.7 / 1.9),
        ("differences", differences, 0.0),
    ):
        for n_groups in (10, 30, 100):
            rates = np.mean([covered(draw(n_groups, seed), truth) for seed in range(worlds)], axis=0)
            print(f"| {name} | {n_groups} | " + " | ".join(f"{rate:.3f}" for rate in rates) + " |")
    print(
        "\n| a gain of the best of 50 trials called real | groups | bias-corrected, sign flips | on the queries that chose, bootstrap |"
    )
    print("| --- | --- | --- | --- |")
    for gain in (0.0, 0.03):
        for n_groups in (30, 100):
            rates = np.mean([called_real(n_groups, gain, seed) for seed in range(worlds // 2)], axis=0)
            print(f"| true gain {gain:.2f} | {n_groups} | {rates[0]:.3f} | {rates[1]:.3f} |")


def precisions(n: int, seed: int) -> np.ndarray:
    """AP@k of one recipe: half the queries miss all, the others spread over 0 to 1."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(n) < 0.5, 0.0, generator.beta(0.7, 1.2, n))


def differences(n: int, seed: int) -> np.ndarray:
    """Differences of two recipes: four of five queries alike, the others either way, of mean 0."""
    generator = np.random.default_rng(seed)
    size = generator.choice([1 / 7, 0.25, 0.5, 1.0], n, p=[0.4, 0.3, 0.2, 0.1]) * generator.choice([-1, 1], n)
    return np.where(generator.random(n) < 0.2, size, 0.0)


def covered(values: np.ndarray, truth: float) -> list[bool]:
    """Say which intervals hold the truth."""
    if np.ptp(values) == 0:
        return [bool(values[0] == truth)] * 3
    found = [group_interval(values, np.arange(len(values)))]
    for method in ("percentile", "BCa"):
        drawn = stats.bootstrap(
            (values,), np.mean, n_resamples=1000, method=method, rng=np.random.default_rng(0), vectorized=True
        )
        found.append(tuple(drawn.confidence_interval))
    return [low <= truth <= high for low, high in found]


def called_real(n_groups: int, gain: float, seed: int) -> tuple[bool, bool]:
    """Say whether the best of 50 trials, all `gain` above a recipe in truth, is called better: by us, and naively."""
    generator = np.random.default_rng(seed)
    groups, base = np.arange(n_groups), precisions(n_groups, seed)
    trials = np.array([base + gain + differences(n_groups, 1000 * seed + 7 * i + 1) for i in range(50)])
    ours = compare(bias_corrected(trials, groups, n_samples=200), base, groups).p <= 0.05
    best = trials[trials.mean(axis=1).argmax()] - base
    counts = bootstrap_groups(groups, 1000, int(generator.integers(1000)))
    return ours, bool((counts @ best > 0).mean() >= 0.95)


if __name__ == "__main__":
    main()
