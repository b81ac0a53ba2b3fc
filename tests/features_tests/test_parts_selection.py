"""The order of detectors and the training sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from competition.configuration import Parts
from competition.errors import ConfigurationError, Top7Error
from features.dumps.part_tables import read_order
from features.parts import selection


def test_variance_of_sums_whatever_the_batches():
    maps = torch.rand(11, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = maps.double().sum((2, 3)).var(0, unbiased=False).numpy()
    found = []
    for size in (1, 4, 11):
        statistics = selection.SumVariance()
        for batch in maps.split(size):
            statistics.add(batch)
        found.append(statistics.variance())
        np.testing.assert_allclose(found[-1], expected, rtol=1e-5)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_order_by_variance_breaks_ties_by_channel():
    assert selection.by_variance(np.array([1.0, 3, 1, 3, 0])).tolist() == [1, 3, 0, 2, 4]


def test_random_order_is_seeded_and_whole():
    order = selection.at_random(50, 3)
    assert sorted(order.tolist()) == list(range(50))
    assert np.array_equal(order, selection.at_random(50, 3)) and not np.array_equal(
        order, selection.at_random(50, 4)
    )


def test_given_order():
    order, count = selection.given([4, 1], 6, "here")
    assert order.tolist() == [4, 1, 0, 2, 3, 5] and count == 2
    for wrong in ([6], [-1], [1, 1], []):
        with pytest.raises(ConfigurationError, match="here"):
            selection.given(wrong, 6, "here")


def test_training_rows():
    parts = Parts(layer=0, counts=(2,), dims=(1,), training_images=5, seed=1)
    rows = selection.training_rows(parts, 20)
    assert len(rows) == 5 and rows.dtype == np.int64 and (np.diff(rows) > 0).all() and rows[-1] < 20
    assert np.array_equal(rows, selection.training_rows(parts, 20))
    assert selection.training_rows(parts, 4).tolist() == [0, 1, 2, 3]


def test_order_file_round_trip(tmp_path):
    path = tmp_path / "order.json"
    selection.write_order(path, np.array([2, 0, 1]), np.array([0.5, 0.25, 9]), {"layer": 4})
    assert read_order(path) == [2, 0, 1]
    path.write_text("[1, 0]")
    assert read_order(path) == [1, 0]
    for wrong in ("{}", "nonsense", '{"order": [1.5]}', "3"):
        path.write_text(wrong)
        with pytest.raises(Top7Error, match="order.json"):
            read_order(path)
    with pytest.raises(Top7Error, match="no such file"):
        read_order(tmp_path / "absent.json")
