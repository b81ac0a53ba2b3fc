"""Matrices kept beside dumps: interrupted, damaged, without room, and made again to the same bytes."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from competition.progress import Progress
from features.dumps.derived import content_digest, derived


def squares(calls):
    def compute(start, stop):
        calls.append(start)
        return [np.arange(start, stop)[:, None] ** np.arange(1, 3), np.arange(start, stop)]

    return compute


COLUMNS = {"powers": (2, "float64"), "numbers": (0, "int64")}


def test_an_interrupted_matrix_resumes_to_the_same_bytes(tmp_path):
    whole, resumed, calls = tmp_path / "whole", tmp_path / "resumed", []
    derived(whole, "x", {"a": 1}, 10, COLUMNS, squares([]), block_rows=3)

    def broken(start, stop):
        if start == 6:
            raise KeyboardInterrupt
        return squares(calls)(start, stop)

    with pytest.raises(KeyboardInterrupt):
        derived(resumed, "x", {"a": 1}, 10, COLUMNS, broken, block_rows=3)
    assert not list(resumed.glob("*.npy"))
    derived(resumed, "x", {"a": 1}, 10, COLUMNS, squares(calls), block_rows=3)
    assert calls == [0, 3, 6, 9]
    derived(resumed, "x", {"a": 1}, 10, COLUMNS, squares(calls), block_rows=3)
    assert calls == [0, 3, 6, 9]
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in resumed.iterdir())
    assert all((whole / name).read_bytes() == (resumed / name).read_bytes() for name in names)
    in_memory = derived(None, "x", {}, 10, COLUMNS, squares([]), block_rows=4)
    assert (in_memory["powers"] == np.arange(10)[:, None] ** np.arange(1, 3)).all()


def test_what_is_damaged_is_computed_again(tmp_path):
    derived(tmp_path, "x", {"a": 1}, 10, COLUMNS, squares([]))
    path, calls = next(tmp_path.glob("*.powers.npy")), []
    path.write_bytes(path.read_bytes()[:-9])
    found = derived(tmp_path, "x", {"a": 1}, 10, COLUMNS, squares(calls))
    assert calls and (found["powers"] == np.arange(10)[:, None] ** np.arange(1, 3)).all()


@pytest.mark.parametrize("harm", ["rows", "journal", "header"])
def test_what_an_interrupted_call_left_damaged_is_computed_again(tmp_path, harm):
    def broken(start, stop):
        if start == 6:
            raise KeyboardInterrupt
        return squares([])(start, stop)

    with pytest.raises(KeyboardInterrupt):
        derived(tmp_path, "x", {}, 10, COLUMNS, broken, block_rows=3)
    path = next(tmp_path.glob(".*.journal" if harm == "journal" else ".*.powers.npy.*.partial"))
    data = bytearray(path.read_bytes())
    data[{"rows": 136, "journal": 3, "header": 20}[harm]] ^= 8
    path.write_bytes(data)
    calls = []
    found = derived(tmp_path, "x", {}, 10, COLUMNS, squares(calls), block_rows=3)
    assert calls == ([0, 6, 9] if harm == "rows" else [0, 3, 6, 9])
    assert (found["powers"] == np.arange(10)[:, None] ** np.arange(1, 3)).all()


def test_an_empty_matrix_is_kept_too(tmp_path):
    assert derived(tmp_path, "x", {}, 0, COLUMNS, squares([]))["powers"].shape == (0, 2)
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["rows"] == 0


def test_digests_tell_contents_apart():
    rows = np.random.default_rng(1).normal(size=(5000, 3)).astype(np.float32)
    other = rows.copy()
    other[4999, 2] += 1
    assert content_digest(rows) == content_digest(rows.copy()) != content_digest(other)
    assert content_digest(rows) != content_digest(rows.astype(np.float64))


def test_the_bar_counts_what_a_block_costs(tmp_path, monkeypatch):
    """An interrupted call, then the rest: what is shown as done starts where it stopped and ends at the total."""
    shown = []

    class Bar(Progress):
        def __init__(self, *arguments, **settings):
            shown.append([settings["initial"], settings["total"], settings["unit"]])
            super().__init__(*arguments, **settings)

        def update(self, n=1):
            shown[-1].append(n)

    def pairs(start, stop):  # with all later rows: 100 of 10 rows, then fewer
        return sum(2 * (10 - row) - 1 for row in range(start, stop))

    def broken(start, stop):
        if start == 6:
            raise KeyboardInterrupt
        return squares([])(start, stop)

    monkeypatch.setattr("features.dumps.derived.Progress", Bar)
    for compute in (broken, squares([])):
        with contextlib.suppress(KeyboardInterrupt):
            derived(
                tmp_path,
                "x",
                {"a": 1},
                10,
                COLUMNS,
                compute,
                block_rows=3,
                effort=("pair", pairs),
                progress=True,
            )
    assert shown == [[0, 100, "pair", 51, 33], [84, 100, "pair", 15, 1]]
