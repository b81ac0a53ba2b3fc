"""Folds, intervals and paired comparisons against cases where the truth is known."""

from itertools import product

import numpy as np
import pytest

from tuning.validation import (
    bias_corrected,
    compare,
    cross_validate,
    figure_interval,
    group_interval,
    holm,
    smallest_gain,
    standard_error,
)


def test_every_query_is_scored_by_weights_tuned_without_its_group():
    groups = np.repeat(np.arange(10), 3)
    seen = []

    def tune_inside(inside, seed):
        seen.append(inside)
        # the "tuned" figure of a query is 1 exactly if its group was inside: out of fold it must be 0
        return np.isin(groups, groups[inside]).astype(float)

    found = cross_validate(tune_inside, groups, n_folds=5, repeats=3, seed=1)
    assert found.mean == 0 and found.spread == 0 and found.out_of_fold.shape == (3, 30)
    assert len(seen) == 15 and all(inside.sum() == 24 for inside in seen)


def test_the_mean_and_spread_by_hand():
    groups = np.arange(4)
    found = cross_validate(lambda inside, seed: np.array([0.0, 0.0, 1.0, 1.0]), groups, n_folds=4, repeats=1)
    assert found.mean == 0.5 and found.spread == 0.5


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 2)
    covered = 0
    for _ in range(400):
        effects = generator.normal(0.5, 0.2, 12)
        low, high = group_interval(effects[groups] + generator.normal(0, 0.01, 24), groups)
        covered += low <= 0.5 <= high
    assert 367 <= covered <= 393  # 95 % of 400 is 380, binomial sd 4.4; the percentile bootstrap covers 90 %


def test_the_standard_error_of_groups_of_one_is_the_textbook_one():
    values = np.random.default_rng(0).random(20)
    assert standard_error(values, np.arange(20)) == pytest.approx(values.std(ddof=1) / np.sqrt(20))
    doubled = standard_error(np.repeat(values, 2), np.repeat(np.arange(20), 2))
    assert doubled == pytest.approx(values.std(ddof=1) / np.sqrt(20))  # copies within a group teach nothing


def test_no_figure_lies_beyond_0_or_1():
    values, groups = np.array([1.0, 1.0, 1.0, 0.5]), np.arange(4)
    assert group_interval(values, groups)[1] > 1
    assert figure_interval(values, groups) == (group_interval(values, groups)[0], 1.0)
    assert figure_interval(1 - values, groups)[0] == 0


def test_one_group_or_one_query_has_no_interval():
    for groups in (np.zeros(1, int), np.zeros(5, int)):
        values = np.full(len(groups), 0.381)
        assert group_interval(values, groups) is None and smallest_gain(values, groups) is None
        found = compare(values, np.zeros(len(groups)), groups)
        assert found.interval is None and found.p == 0.5 and found.within_noise
        assert bias_corrected(values[None], groups) is None


def test_equal_recipes_and_a_clear_gain():
    values = np.random.default_rng(0).random(30)
    groups = np.arange(30)
    same = compare(values, values, groups)
    assert (same.gain, same.p, same.wins, same.ties, same.losses) == (0, 1, 0, 30, 0) and same.within_noise
    clear = compare(values + 0.1, values, groups)
    assert (
        clear.gain == pytest.approx(0.1) and clear.p < 0.001 and not clear.within_noise and clear.wins == 30
    )
    assert compare(values, values + 0.1, groups).p == 1
    assert compare(values, values + 0.1, groups, two_sided=True).p < 0.001


def test_three_of_a_hundred_all_in_favour_is_one_in_eight():
    first, second = np.zeros(100), np.zeros(100)
    first[[3, 40, 77]] = (1, 0.5, 0.25)
    found = compare(first, second, np.arange(100))
    assert found.p == 0.125 and (found.wins, found.ties, found.losses) == (3, 97, 0)
    assert compare(first, second, np.arange(100), two_sided=True).p == 0.25


def test_the_exact_test_equals_all_sign_flips_written_out():
    generator = np.random.default_rng(3)
    groups = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 6])
    first, second = generator.random((2, 10))
    sums = np.array([(first - second)[groups == group].sum() for group in range(7)])
    flipped = [np.dot(signs, sums) for signs in product((-1, 1), repeat=7)]
    expected = np.mean(np.array(flipped) >= sums.sum() - 1e-12)
    assert compare(first, second, groups).p == pytest.approx(expected)


def test_a_gain_that_rests_on_one_large_group_is_noise():
    # twenty queries gain, but they are one group: one product photographed twenty times
    groups = np.array([0] * 20 + list(range(1, 31)))
    first, second = np.zeros(50), np.zeros(50)
    first[:20] = 1
    assert compare(first, second, groups).p == 0.5
    assert not compare(first, second, np.arange(50)).within_noise


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_bias_correction_equals_the_procedure_written_out():
    from competition.splits import bootstrap_groups

    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(6), 2)
    precisions = generator.random((9, 12))
    lists = [[] for _ in groups]
    for counts in bootstrap_groups(groups, 200, 4):
        best = max(range(9), key=lambda trial: (np.repeat(precisions[trial], counts).mean(), -trial))
        for query in np.flatnonzero(counts == 0):
            lists[query].append(precisions[best, query])
    found = bias_corrected(precisions, groups, n_samples=200, seed=4)
    assert found == pytest.approx([np.mean(values) for values in lists])


def test_choosing_among_equals_earns_nothing_once_corrected():
    # all trials are worth 0.3 in truth: the best of 100 promises more, the corrected figure does not
    promised, corrected = [], []
    for seed in range(20):
        precisions = np.random.default_rng(seed).binomial(1, 0.3, (100, 60)).astype(float)
        promised.append(precisions.mean(axis=1).max())
        corrected.append(bias_corrected(precisions, np.arange(60), n_samples=200).mean())
    assert np.mean(promised) > 0.4 and abs(np.mean(corrected) - 0.3) < 0.02


def test_the_smallest_gain_is_found_about_four_times_in_five():
    generator = np.random.default_rng(0)
    groups, seen = np.arange(40), 0
    gain = smallest_gain(generator.normal(0, 0.2, 40 * 50), np.arange(2000)) * np.sqrt(50)
    for _ in range(60):
        seen += not compare(generator.normal(gain, 0.2, 40), np.zeros(40), groups).within_noise
    assert 39 <= seen <= 57  # 80 % of 60 is 48, binomial sd 3.1
