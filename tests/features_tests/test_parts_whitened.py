"""Whitened components against scalings written out, with the norms and rows of the projection they come from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from features.dumps import beside, dump_writer, open_dump, row_sums, sidecar_for
from features.parts import whitened
from features.parts.whitened import write_whitened
from features.whitening import column_scales

IDS = ["a", "b", "c", "d", "e"]


def write_dump(folder, seed=0):
    raw = np.random.default_rng(seed).normal(size=(5, 6))
    raw[3] = 0  # unreadable
    norms = np.linalg.norm(raw, axis=1).astype(np.float32)
    rows = (raw / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
    path = folder / "net.0.parts-N5-0123456789ab.npy"
    np.save(path, rows)
    np.save(beside(path, ".norms.npy"), norms)
    np.save(beside(path, ".sums.npy"), row_sums(rows, norms))
    unreadable = [{"row": 3, "id": "d", "reason": "truncated"}]
    sidecar = sidecar_for(shape=(5, 6), dtype="float32", ids=IDS, recipe={"count": 5}, unreadable=unreadable)
    beside(path, ".json").write_text(json.dumps(sidecar))
    return raw, open_dump(path)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dim,exponent", [(6, 0.0), (4, 1.0), (2, 0.5)])
def test_rows_norms_and_sidecar(tmp_path, monkeypatch, half, dim, exponent):
    monkeypatch.setattr(dump_writer, "BLOCK_ROWS", 2)
    raw, source = write_dump(tmp_path)
    eigenvalues = np.array([9.0, 4, 2, 1, 0.5, 0.25])
    recipe = source.recipe | {"dim": dim, "exponent": exponent}
    path = write_whitened(
        source, tmp_path / "made.npy", recipe, column_scales(eigenvalues, dim, exponent), half=half
    )
    made = open_dump(path, ids=IDS)
    assert made.recipe == recipe
    scaled = raw[:, :dim] / eigenvalues[:dim] ** (exponent / 2)
    lengths = np.linalg.norm(scaled, axis=1)
    expected = scaled / np.where(lengths > 0, lengths, 1)[:, None]
    assert made.descriptors.dtype == (np.float16 if half else np.float32)
    np.testing.assert_allclose(made.descriptors, expected, atol=1e-3 if half else 1e-6)
    np.testing.assert_allclose(made.norms, lengths, rtol=1e-5)
    assert made.unreadable.tolist() == [False, False, False, True, False] and not made.descriptors[3].any()
    assert np.array_equal(np.load(beside(path, ".sums.npy")), row_sums(made.descriptors, made.norms))
    assert not list(tmp_path.glob(".*partial"))


def test_made_again_only_if_the_projection_changed_or_damage(tmp_path):
    _, source = write_dump(tmp_path)
    path = write_whitened(source, tmp_path / "made.npy", {}, np.ones(3))
    assert whitened._is_there(path, source)
    _, other = write_dump(tmp_path, seed=1)
    assert not whitened._is_there(path, other)
    path.write_bytes(path.read_bytes()[:100])
    assert not whitened._is_there(path, source)
