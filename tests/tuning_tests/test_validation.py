"""Folds, intervals and paired comparisons against cases where the truth is known."""

import numpy as np
import pytest

from tuning.validation import compare, cross_validate, group_interval


def test_every_query_is_scored_by_weights_tuned_without_its_group():
    groups = np.repeat(np.arange(10), 3)
    seen = []

    def tune_inside(inside, seed):
        seen.append(inside)
        # the "tuned" figure of a query is 1 exactly if its group was inside: out of fold it must be 0
        return np.isin(groups, groups[inside]).astype(float)

    found = cross_validate(tune_inside, groups, n_folds=5, repeats=3, seed=1)
    assert found.mean == 0 and found.out_of_fold.shape == (3, 30) and found.fold_maps.shape == (3, 5)
    assert len(seen) == 15 and all(inside.sum() == 24 for inside in seen)


def test_the_mean_and_spread_by_hand():
    groups = np.arange(4)
    found = cross_validate(lambda inside, seed: np.array([0.0, 0.0, 1.0, 1.0]), groups, n_folds=4, repeats=1)
    assert found.mean == 0.5 and found.spread == 0.5


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 2)
    covered = 0
    for trial in range(200):
        effects = generator.normal(0.5, 0.2, 40)
        low, high = group_interval(
            effects[groups] + generator.normal(0, 0.01, 80), groups, n_samples=500, seed=trial
        )
        covered += low <= 0.5 <= high
    assert 176 <= covered <= 200  # 95 % of 200 is 190, binomial sd 3; grouped resampling keeps it honest


def test_equal_recipes_have_even_odds_and_a_clear_gain_is_certain():
    values = np.random.default_rng(0).random(30)
    groups = np.arange(30)
    same = compare(values, values, groups)
    assert same.gain == 0 and same.probability == 0.5 and same.within_noise
    clear = compare(values + 0.1, values, groups)
    assert clear.gain == pytest.approx(0.1) and clear.probability == 1 and not clear.within_noise
    assert compare(values, values + 0.1, groups).probability == 0


def test_a_gain_of_one_query_is_noise():
    first, second = np.zeros(50), np.zeros(50)
    first[3] = 1
    found = compare(first, second, np.arange(50))
    assert (
        found.within_noise and 0.5 < found.probability < 0.95
    )  # 1 - (49/50)^50 = 0.64 see it, half of the rest


def test_a_gain_that_rests_on_one_large_group_is_noise():
    # twenty queries gain, but they are one group: one product photographed twenty times
    groups = np.array([0] * 20 + list(range(1, 31)))
    first, second = np.zeros(50), np.zeros(50)
    first[:20] = 1
    assert compare(first, second, groups).within_noise
    assert not compare(first, second, np.arange(50)).within_noise
