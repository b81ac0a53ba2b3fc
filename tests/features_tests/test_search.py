"""Exact top-k against a brute-force ranking by canonical score, ties and awkward galleries included."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from competition.errors import Top7Error
from features.search.exact_search import search
from features.search.shortlist import Shortlist


def brute_force(queries, gallery, weights, k, excluded=None):
    """The specification, one query and one row at a time."""
    count, total = len(queries[0]), len(gallery[0])
    ranks, scores = np.full((count, k), -1), np.full((count, k), -np.inf)
    for query in range(count):
        scored = []
        for row in range(total):
            if excluded is not None and excluded[row]:
                continue
            score = 0.0
            for q, g, weight in zip(queries, gallery, weights):
                if weight != 0:
                    products = q[query].astype(np.float64) * g[row].astype(np.float64)
                    score += float(weight) * float(np.add.reduce(products))
            scored.append((-score, row))
        for place, (negative, row) in enumerate(sorted(scored)[:k]):
            ranks[query, place], scores[query, place] = row, -negative
    return ranks, scores


def in_blocks(rows, *arguments, **options):
    """A search that reads so many gallery rows at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.search.exact_search.BLOCK_ROWS", rows)
        return search(*arguments, **options)


def tied_rows(generator, count, dimension, dtype):
    """Unit rows of which many are exact duplicates, nearly equal, or zero."""
    base = generator.standard_normal((max(1, count // 3), dimension))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    rows = base[generator.integers(0, len(base), count)].astype(dtype)
    nearly = generator.random(count) < 0.2
    rows[nearly] = np.nextafter(rows[nearly], dtype(2))
    rows[generator.random(count) < 0.1] = 0
    return rows


def assert_same(found, expected):
    assert (found[0] == expected[0]).all()
    assert (found[1] == expected[1]).all()
    assert found[0].dtype == np.int64 and found[1].dtype == np.float64


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 60),
    k=st.integers(1, 12),
    parts=st.integers(1, 3),
    block=st.integers(1, 70),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    skip=st.booleans(),
    bound=st.integers(1, 40),
)
def test_equals_brute_force(seed, count, k, parts, block, dtype, skip, bound):
    generator = np.random.default_rng(seed)
    dimensions = generator.integers(1, 40, parts)
    gallery = [tied_rows(generator, count, d, dtype) for d in dimensions]
    queries = [tied_rows(generator, 5, d, dtype) for d in dimensions]
    if seed % 2:  # queries that are gallery rows
        queries = [np.concatenate([q, g[:1]]) for q, g in zip(queries, gallery)]
    weights = generator.choice([0.0, 0.25, 0.5, 1.0, 1 / 3, -0.5], parts)
    excluded = generator.random(count) < 0.2 if skip else None
    with pytest.MonkeyPatch.context() as patch:  # small shortlists, so that rescoring on the way happens
        patch.setattr(Shortlist, "slack", bound)
        found = in_blocks(block, queries, gallery, weights, k, excluded=excluded)
    assert_same(found, brute_force(queries, gallery, weights, k, excluded))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_does_not_depend_on_blocks_batches_or_threads(dtype, monkeypatch, tmp_path):
    generator = np.random.default_rng(5)
    gallery = [tied_rows(generator, 900, d, dtype) for d in (33, 70)]
    np.save(tmp_path / "g.npy", gallery[1])
    gallery[1] = np.load(tmp_path / "g.npy", mmap_mode="r")
    queries = [tied_rows(generator, 23, d, dtype) for d in (33, 70)]
    expected = search(queries, gallery, [0.3, 0.7], 7)
    assert_same(expected, brute_force(queries, gallery, [0.3, 0.7], 7))
    for block in (1, 7, 64, 899, 5000):
        for threads in (1, 2):
            with threadpool_limits(threads):
                assert_same(in_blocks(block, queries, gallery, [0.3, 0.7], 7), expected)
    monkeypatch.setattr("features.search.exact_search._OUTPUT_BYTES", 1)  # one query at a time
    assert_same(search(queries, gallery, [0.3, 0.7], 7), expected)


def test_tens_of_thousands_of_duplicates_at_the_cut():
    generator = np.random.default_rng(0)
    rows = tied_rows(generator, 40_000, 16, np.float32)
    rows[3000:] = rows[3000]
    rows[39_000] = -rows[3000]
    queries = np.stack([rows[3000], rows[7], -rows[3000]])
    tracemalloc.start()
    ranks, scores = in_blocks(2000, [queries], [rows], [1.0], 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6
    exact = [np.add.reduce(rows.astype(float) * q.astype(float), axis=1) for q in queries]
    expected = np.stack([np.lexsort((np.arange(len(rows)), -s))[:7] for s in exact])
    assert (ranks == expected).all() and (scores == np.take_along_axis(np.stack(exact), expected, 1)).all()


def test_small_galleries_and_missing_places():
    one = np.array([[1.0, 0.0]], np.float32)
    ranks, scores = search([one], [one], [2.0], 3)
    assert ranks.tolist() == [[0, -1, -1]] and scores.tolist() == [[2.0, -np.inf, -np.inf]]
    ranks, scores = search([one], [one], [1.0], 2, excluded=np.array([True]))
    assert ranks.tolist() == [[-1, -1]] and (scores == -np.inf).all()
    ranks, _ = search([one], [np.empty((0, 2), np.float32)], [1.0], 2)
    assert ranks.tolist() == [[-1, -1]]
    assert search([np.empty((0, 2), np.float32)], [one], [1.0], 2)[0].shape == (0, 2)


def test_a_zero_query_gets_the_first_rows_that_are_not_excluded():
    gallery = np.eye(6, dtype=np.float32)
    queries = np.zeros((2, 6), np.float32)
    queries[1, 4] = 1
    ranks, scores = search([queries], [gallery], [1.0], 3, excluded=np.array([0, 1, 0, 0, 0, 0], bool))
    assert ranks.tolist() == [[0, 2, 3], [4, 0, 2]] and scores.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert search([queries], [gallery], [0.0], 2)[0].tolist() == [[0, 1], [0, 1]]


def test_known_norms_give_the_same_lists():
    generator = np.random.default_rng(3)
    gallery, queries = tied_rows(generator, 300, 50, np.float32), tied_rows(generator, 9, 50, np.float32)
    assert_same(search([queries], [gallery], [1.0], 7, unit=True), search([queries], [gallery], [1.0], 7))


def test_half_precision_dumps_are_never_held_as_a_whole(tmp_path):
    np.save(tmp_path / "g.npy", tied_rows(np.random.default_rng(1), 60_000, 64, np.float16))
    gallery = np.load(tmp_path / "g.npy", mmap_mode="r")
    in_blocks(1000, [gallery[:5]], [gallery], [1.0], 7)  # imports torch
    tracemalloc.start()
    in_blocks(1000, [gallery[:5]], [gallery], [1.0], 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < gallery.nbytes / 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(value):
    gallery = np.ones((40, 3), np.float32)
    gallery[31, 1] = value
    query = np.ones((1, 3), np.float32)
    with pytest.raises(Top7Error, match="component 0 of the gallery: row 31 is not finite"):
        in_blocks(10, [query], [gallery], [1.0], 7)
    with pytest.raises(Top7Error, match="component 0 of the queries: row 0"):
        search([query * value], [np.ones((4, 3), np.float32)], [1.0], 7)


def test_progress_goes_to_stderr(capsys, monkeypatch):
    monkeypatch.setattr("competition.progress.EVERY_S", 0)
    rows = np.ones((4, 3), np.float32)
    search([rows], [rows], [1.0], 1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "search" in captured.err
