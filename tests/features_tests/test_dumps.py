"""Dumps: what a complete one gives, and one clear line for each way in which one can be wrong."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from competition.errors import Top7Error
from features.dumps import (
    beside,
    column_sum,
    file_label,
    npy_header,
    open_dump,
    recipe_digest,
    row_sums,
    sidecar_for,
)

IDS = ["a", "b", "c"]
RECIPE = {"model": "m", "layer": 4, "pooling": "spoc", "options": {"x": 1}}


@pytest.fixture()
def dump(tmp_path):
    path = tmp_path / "m.4.spoc-0123456789ab.npy"
    rows = np.eye(3, 5, dtype=np.float32)
    rows[1] = 0
    np.save(path, rows)
    np.save(beside(path, ".norms.npy"), np.array([2, 0, 3], dtype=np.float32))
    sidecar = sidecar_for(
        shape=(3, 5),
        dtype="float32",
        ids=IDS,
        recipe=RECIPE,
        unreadable=[{"row": 1, "id": "b", "reason": "empty file"}],
    )
    beside(path, ".json").write_text(json.dumps(sidecar))
    return path


def test_a_complete_dump(dump):
    opened = open_dump(dump, ids=IDS)
    assert isinstance(opened.descriptors, np.memmap) and opened.descriptors.shape == (3, 5)
    assert opened.ids == ("a", "b", "c") and opened.recipe == RECIPE
    assert opened.unreadable.tolist() == [False, True, False]
    assert opened.norms.tolist() == [2, 0, 3]


def test_the_sum_of_rows_kept_or_computed(dump):
    opened = open_dump(dump)
    rows = np.random.default_rng(0).random((3000, 5)).astype(np.float32)
    skip = np.arange(3000) % 7 == 3
    expected = [sum(float(row[d]) for row, gone in zip(rows, skip) if not gone) for d in range(5)]
    np.testing.assert_allclose(column_sum(rows, skip), expected, rtol=1e-6)
    first_gone = np.array([True, False, False])
    assert opened.column_sum(first_gone).tolist() == [0, 0, 1, 0, 0]
    sidecar = json.loads(beside(dump, ".json").read_text()) | {"column_sum": [8, 0, 1, 0, 0.5]}
    beside(dump, ".json").write_text(json.dumps(sidecar))
    assert open_dump(dump).column_sum(first_gone).tolist() == [7, 0, 1, 0, 0.5]  # what is kept, less the row


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda path: beside(path, ".json").unlink(), "no such dump, or an unfinished one"),
        (lambda path: beside(path, ".json").write_text("{"), "damaged .*run ./run.sh extract"),
        (lambda path: beside(path, ".json").write_text("{}"), "not a dump's sidecar"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "truncated or damaged"),
        (lambda path: path.write_bytes(b""), "truncated or damaged"),
        (lambda path: path.unlink(), "missing beside its sidecar"),
        (lambda path: beside(path, ".norms.npy").unlink(), "missing beside its sidecar"),
        (lambda path: np.save(path, np.zeros((3, 4), np.float32)), r"holds \(3, 4\) float32.*says \(3, 5\)"),
        (lambda path: np.save(path, np.array([None] * 3), allow_pickle=True), "damaged"),
    ],
)
def test_harm_is_one_line(dump, harm, message):
    harm(dump)
    with pytest.raises(Top7Error, match=message) as caught:
        open_dump(dump, ids=IDS)
    assert "\n" not in str(caught.value) and str(dump.parent) in str(caught.value)


@pytest.mark.parametrize(
    "ids, message",
    [
        (["a", "b"], "holds 3 rows, expected 2 images"),
        (["a", "c", "b"], "row 1 is the image 'b', expected 'c'"),
    ],
)
def test_other_ids(dump, ids, message):
    with pytest.raises(Top7Error, match=message):
        open_dump(dump, ids=ids)


def test_the_digest_follows_every_key_and_no_order():
    assert recipe_digest(RECIPE) == recipe_digest(dict(reversed(RECIPE.items())))
    others = [RECIPE | {key: "other"} for key in RECIPE] + [
        RECIPE | {"new": 1},
        RECIPE | {"options": {"x": 2}},
    ]
    assert len({recipe_digest(recipe) for recipe in [RECIPE, *others]}) == len(others) + 1
    assert len(recipe_digest(RECIPE)) == 12


def test_file_names_are_plain():
    assert file_label("a/b c", "blocks.3", "päd") == "a_b_c.blocks.3.p_d"


def test_the_header_is_numpys_own(tmp_path):
    (tmp_path / "x.npy").write_bytes(npy_header((2, 3), "float32") + np.arange(6, dtype="<f4").tobytes())
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.arange(6, dtype=np.float32).reshape(2, 3))


def test_row_sums_cover_the_row_and_its_norm():
    rows, norms = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2], dtype=np.float32)
    assert row_sums(rows, norms)[1] == zlib.crc32(rows[1].tobytes() + norms[1].tobytes())
    assert (row_sums(rows, norms + np.float32(1)) != row_sums(rows, norms)).all()
