"""The canonical kernel's bits depend on two vectors only; the float32 products stay within their proven
margin.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from competition.errors import Top7Error
from features.search.similarity import (
    best_first,
    component_similarity,
    float32_rows,
    fuse,
    fused_score,
    margin,
    similarity_blocks,
)


def unit_rows(count: int, dimension: int, seed: int, dtype=np.float32) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


@settings(max_examples=40)
@given(
    dimension=st.integers(1, 700),
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    data=st.data(),
)
def test_bits_do_not_depend_on_block_or_layout(dimension, count, seed, dtype, data):
    rows = unit_rows(count, dimension, seed, dtype)
    query = unit_rows(1, dimension, seed + 1, dtype)[0]
    whole = component_similarity(query, rows)
    assert whole.dtype == np.float64 and whole.shape == (count,)
    cut = data.draw(st.integers(0, count))
    assert (
        np.concatenate([component_similarity(query, rows[:cut]), component_similarity(query, rows[cut:])])
        == whole
    ).all()
    for number, row in enumerate(rows):
        assert component_similarity(query, row[None])[0] == whole[number]
        assert component_similarity(row, query[None])[0] == whole[number]
    order = np.random.default_rng(seed).permutation(count)
    assert (component_similarity(query, rows[order]) == whole[order]).all()
    assert (component_similarity(query, np.asfortranarray(rows)) == whole).all()
    assert (component_similarity(query, np.repeat(rows, 2, axis=0)[::2]) == whole).all()
    assert (component_similarity(query, rows.astype(np.float64)) == whole).all()


def test_bits_do_not_depend_on_the_chunks_of_a_long_gallery(monkeypatch):
    rows, query = unit_rows(1000, 96, 0), unit_rows(1, 96, 1)[0]
    whole = component_similarity(query, rows)
    for products in (1, 8 * 96, 8 * 96 * 7, 8 * 96 * 999):
        monkeypatch.setattr("features.search.similarity._PRODUCT_BYTES", products)
        assert (component_similarity(query, rows) == whole).all()


def test_bits_do_not_depend_on_threads_or_on_a_memmap(tmp_path):
    rows, query = unit_rows(3000, 512, 0, np.float16), unit_rows(1, 512, 1, np.float16)[0]
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    whole = component_similarity(query, rows)
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            assert (component_similarity(query, mapped[17:2000]) == whole[17:2000]).all()


def test_products_of_float32_entries_are_exact():
    query, rows = unit_rows(1, 5, 3)[0], unit_rows(4, 5, 4)
    for row, value in zip(rows, component_similarity(query, rows)):
        truth = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, row))
        assert abs(Fraction(float(value)) - truth) <= Fraction(5 * 2.0**-53)


def test_fuse_goes_in_order_and_skips_zero_weights():
    parts = [np.array([0.1, 0.7]), np.array([np.nan, np.nan]), np.array([0.3, 0.2])]
    expected = [0.0 + 0.6 * 0.1 + 0.4 * 0.3, 0.0 + 0.6 * 0.7 + 0.4 * 0.2]
    assert fuse(parts, [0.6, 0.0, 0.4]).tolist() == expected
    with pytest.raises(ValueError):
        fuse(parts, [0.5, 0.5])


def test_fused_score_is_fuse_of_the_components():
    queries, rows = [unit_rows(1, d, d)[0] for d in (3, 8)], [unit_rows(6, d, d + 1) for d in (3, 8)]
    singles = [component_similarity(q, r) for q, r in zip(queries, rows)]
    assert (fused_score(queries, rows, [0.3, 0.7]) == fuse(singles, [0.3, 0.7])).all()
    assert (fused_score(queries, rows, [0.0, 0.0]) == 0).all()


def test_equal_scores_go_by_row():
    rows = np.array([9, 4, 7, 1])
    assert rows[best_first(np.array([0.5, 0.5, 0.9, -0.0]), rows)].tolist() == [7, 4, 9, 1]
    assert best_first(np.array([0.0, -0.0]), np.array([5, 2])).tolist() == [1, 0]


@settings(max_examples=40)
@given(
    dimension=st.integers(1, 400),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    positive=st.booleans(),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_the_margin_holds(dimension, seed, scale, positive, dtype):
    rows = unit_rows(30, dimension, seed, dtype).astype(np.float64) * scale
    rows = np.abs(rows) if positive else rows
    rows = rows.astype(np.float32) if dtype != np.float64 else rows
    queries = unit_rows(5, dimension, seed + 1, dtype)
    lengths = np.linalg.norm(queries.astype(float), axis=1)[:, None] * np.linalg.norm(
        rows.astype(float), axis=1
    )
    for start, (fast,) in similarity_blocks([queries], [rows], block_rows=7):
        for query, values in zip(range(5), fast):
            exact = component_similarity(queries[query], rows[start : start + 7])
            bound = margin(dimension, lengths[query, start : start + 7])
            assert (np.abs(values - exact) <= bound).all()


def test_the_margin_is_small_enough_to_be_of_use():
    assert 1472 * 2**-24 < margin(1472) < 1.01 * 1476 * 2**-24 * 1.002
    assert math.isclose(margin(100, 2.0), 2 * margin(100, 1.0), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_cover_the_gallery_once(dtype, tmp_path):
    gallery = [unit_rows(533, d, d, dtype) for d in (130, 7)]
    np.save(tmp_path / "a.npy", gallery[0])
    gallery[0] = np.load(tmp_path / "a.npy", mmap_mode="r")
    queries = [unit_rows(3, d, d + 1, dtype) for d in (130, 7)]
    blocks = [
        (start, [part.copy() for part in parts]) for start, parts in similarity_blocks(queries, gallery, 100)
    ]
    assert [start for start, _ in blocks] == [0, 100, 200, 300, 400, 500]
    for number in range(2):
        joined = np.concatenate([parts[number] for _, parts in blocks], axis=1)
        expected = queries[number].astype(np.float64) @ gallery[number].astype(np.float64).T
        assert joined.dtype == np.float32 and np.abs(joined - expected).max() < margin(130)


def test_half_precision_is_converted_exactly():
    for count in (3, 2000):  # below and above the size that goes through torch
        rows = unit_rows(count, 64, 5, np.float16)
        rows[0, :3] = [0.0, 6e-8, -65504.0]
        assert (float32_rows(rows) == rows.astype(np.float32)).all()
        assert float32_rows(rows[:, ::2]).flags.c_contiguous
    kept = unit_rows(4, 8, 0)
    assert np.shares_memory(float32_rows(kept), kept)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(Top7Error, match=r"component 1: queries of shape \(2, 4\).*\(5, 6\)"):
        next(similarity_blocks([np.ones((2, 3)), np.ones((2, 4))], [np.ones((5, 3)), np.ones((5, 6))]))
    with pytest.raises(Top7Error, match="not of the same images"):
        next(similarity_blocks([np.ones((2, 3))] * 2, [np.ones((5, 3)), np.ones((6, 3))]))
    with pytest.raises(Top7Error, match="1 components of queries against 2"):
        next(similarity_blocks([np.ones((2, 3))], [np.ones((5, 3))] * 2))
    with pytest.raises(Top7Error, match="int64, expected floats"):
        next(similarity_blocks([np.ones((2, 3), int)], [np.ones((5, 3))]))
