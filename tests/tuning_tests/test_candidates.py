"""Candidates against the full ranking: whatever the weights of the region, the top k is the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning import candidates, region
from tuning.candidates import Candidates, exclusion_counts, find_candidates, merged_candidates
from tuning.objective import mean_average_precision, pad_candidates, ranked_positions
from tuning.running_candidates import FastCoordinates, PrunesBadly

K = 7


def full_ranking(similarities, weights, k, excluded=None):
    """The naive way: every score, one sort by (-score, row). similarities: (n, L)."""
    scores = np.zeros(len(similarities))
    for weight, column in zip(weights, similarities.T):
        scores = scores + weight * column if weight != 0 else scores
    order = np.lexsort((np.arange(len(scores)), -scores))
    order = (
        [int(r) for r in order if excluded is None or not excluded[r]][:k]
        if excluded is not None
        else order[:k].tolist()
    )
    return order + [-1] * (k - len(order))


def correlated_similarities(generator, n_queries, n, n_layers, *, decimals=None, free=0):
    """Similarities that rise together, like layers of one network; quantised, they tie often."""
    base = generator.normal(size=(n_queries, n, 1))
    noise = generator.normal(size=(n_queries, n, n_layers))
    values = 0.6 + 0.08 * base + 0.03 * noise
    if free:
        values[:, :, -free:] = 0.2 * noise[:, :, -free:] + 0.1 * base
    values = np.clip(values, -1, 1)
    return values if decimals is None else np.round(values, decimals)


def blocks_of(similarities, block_rows, error, generator, scale):
    n_queries, n, n_layers = similarities.shape
    for start in range(0, n, block_rows):
        part = similarities[:, start : start + block_rows] * scale
        wrong = part + generator.uniform(-error, error, part.shape)
        yield start, [wrong[:, :, l].astype(np.float32) for l in range(n_layers)]


def pruned(
    similarities, corners, chains, *, block_rows=97, error=3e-5, seed=0, always=None, excluded=None, **options
):
    generator = np.random.default_rng(seed)
    fast = FastCoordinates(corners, tuple(region.chain_members(chains)))
    excluded = np.zeros(similarities.shape[1], dtype=bool) if excluded is None else excluded
    found = find_candidates(
        blocks_of(similarities, block_rows, error * 0.99, generator, fast.scale),
        lambda q, rows: similarities[q, rows],
        fast,
        K,
        similarity_margin=np.full(len(fast.scale), error),
        excluded=excluded,
        n_queries=len(similarities),
        **options,
    )
    if always is None:
        return found
    more = {"excluded": excluded, "always": always}
    return merged_candidates([found], lambda q, rows: similarities[q, rows], corners, K, **more)


def ranks(padded, weights):
    """The top k of every query under `weights`: (Q, k) gallery rows, -1 where there are fewer."""
    best, valid = ranked_positions(padded, weights)
    return np.where(valid, np.take_along_axis(padded.rows, best, axis=1), -1)


def scene_of(candidates, relevant):
    return pad_candidates(candidates, relevant, K)


@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("layout", ["one chain", "chain and part detectors", "two chains", "simplex"])
def test_thousands_of_weights_rank_as_the_full_list(layout, decimals):
    generator = np.random.default_rng([3, len(layout), decimals or 0])
    chains = {
        "one chain": "aaaaa",
        "chain and part detectors": "aaaap",
        "two chains": "aaabb",
        "simplex": "12345",
    }[layout]
    similarities = correlated_similarities(
        generator, 3, 1500, 5, decimals=decimals, free=layout.endswith("detectors")
    )
    similarities[:, 700:740] = similarities[:, 100:140]  # exact duplicates
    sums = np.abs(similarities.mean(axis=(0, 1)))
    corners = region.vertices(sums, list(chains))
    found = pruned(similarities, corners, list(chains))
    relevant = [np.array([5, 700]) for _ in range(3)]
    padded = scene_of(found, relevant)
    points = np.concatenate([region.random_coordinates(300, 5, generator), np.eye(5), np.full((1, 5), 0.2)])
    faces = np.array([[1, 1, 0.3, 0.3, 1], [0.4, 1, 1, 1, 0.2], [1, 0.5, 1, 0.1, 0.9]])
    points = np.concatenate([points, region.uniform_coordinates(faces)])
    for weights in points @ corners:
        found_ranks = ranks(padded, weights)
        for query in range(3):
            assert found_ranks[query].tolist() == full_ranking(similarities[query], weights, K)
    if layout == "one chain" and decimals is None:
        assert np.mean([len(rows) for rows in found.rows]) < 150  # of 1500: the pruning prunes


LAYOUTS = {
    "two backbones of four": "aaaabbbb",
    "two chains and two parts": "aaaaabbbpq",
    "three chains": "aaaabbbbcccc",
    "a chain not side by side": "abababpcqaba",
}


@pytest.mark.parametrize("decimals", [None, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_to_twelve_components_rank_as_the_full_list_under_thousands_of_weights(layout, decimals):
    chains = list(LAYOUTS[layout])
    n = len(chains)
    generator = np.random.default_rng([n, decimals or 0])
    similarities = correlated_similarities(generator, 2, 900, n, decimals=decimals)
    free = [i for i, chain in enumerate(chains) if chains.count(chain) == 1]
    similarities[:, :, free] = np.round(
        similarities[:, :, free] - 0.6, decimals or 12
    )  # as whitened descriptors, around 0
    similarities[:, 700:740] = similarities[:, 100:140]  # exact duplicates
    corners = region.vertices(similarities.mean(axis=(0, 1)), chains)
    found = pruned(similarities, corners, chains)
    padded = scene_of(found, [np.array([5, 700])] * 2)
    sparse = region.random_coordinates(400, n, generator) * (
        generator.random((400, n)) < 0.4
    )  # on faces, many weights 0
    sparse = sparse[sparse.sum(axis=1) > 0]
    points = [
        region.random_coordinates(800, n, generator),
        sparse / sparse.sum(axis=1, keepdims=True),
        np.eye(n),
    ]
    for weights in np.concatenate(points) @ corners:
        found_ranks = ranks(padded, weights)
        for query in range(2):
            assert found_ranks[query].tolist() == full_ranking(similarities[query], weights, K)
    assert np.mean([len(rows) for rows in found.rows]) < 900  # something was pruned, or nothing was shown


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 1, 0]),
)
def test_small_galleries_blocks_and_exclusions(n, n_layers, block_rows, seed, decimals):
    generator = np.random.default_rng(seed)
    similarities = correlated_similarities(generator, 2, n, n_layers, decimals=decimals)
    excluded = generator.random(n) < 0.2
    chains = [str(generator.integers(0, 2)) for _ in range(n_layers)]
    corners = region.vertices(generator.uniform(0.1, 1, n_layers), chains)
    found = pruned(similarities, corners, chains, block_rows=block_rows, excluded=excluded, seed=seed)
    if not all(len(rows) for rows in found.rows):
        assert excluded.all()
        return
    padded = scene_of(found, [rows[:1] for rows in found.rows])
    for weights in region.random_coordinates(20, n_layers, generator) @ corners:
        found_ranks = ranks(padded, weights)
        for query in range(2):
            assert found_ranks[query].tolist() == full_ranking(similarities[query], weights, K, excluded)


def test_blocks_and_threads_do_not_change_the_result():
    similarities = correlated_similarities(np.random.default_rng(1), 4, 2000, 5)
    corners = region.vertices(np.full(5, 0.6), ["a"] * 5)
    reference = pruned(similarities, corners, ["a"] * 5, block_rows=2000, threads=1)
    for block_rows, threads in ((64, 2), (333, 1), (1999, 3)):
        other = pruned(
            similarities, corners, ["a"] * 5, block_rows=block_rows, threads=threads, seed=block_rows
        )
        for a, b in zip(reference.rows, other.rows):
            np.testing.assert_array_equal(a, b)


def test_exclusion_counts_against_the_definition():
    generator = np.random.default_rng(5)
    similarities = np.round(generator.random((80, 3)), 1)
    corners = region.vertices(np.array([0.5, 0.6, 0.7]), ["a", "a", "b"])
    t = similarities @ corners.T
    rows = generator.permutation(1000)[:80]
    counts = exclusion_counts(t, similarities, rows, 7)
    for a in range(80):
        slow = sum(
            bool(
                (t[b] > t[a] + 1e-11).all()
                or ((similarities[b] >= similarities[a]).all() and rows[b] < rows[a])
            )
            for b in range(80)
        )
        assert min(counts[a], 7) == min(slow, 7)


def test_relevant_items_are_kept_even_when_they_cannot_win():
    similarities = correlated_similarities(np.random.default_rng(2), 1, 500, 3)
    worst = int(similarities[0].sum(axis=1).argmin())
    found = pruned(
        similarities, region.vertices(np.full(3, 0.6), ["a"] * 3), "aaa", always=[np.array([worst])]
    )
    assert worst in found.rows[0]


@pytest.mark.parametrize("decimals", [None, 2])  # quantised, they tie often, across the parts too
@pytest.mark.parametrize("cuts", [(250,), (3, 10, 400), (100, 200, 300)])
def test_candidates_of_parts_merge_to_those_of_the_whole(cuts, decimals):
    similarities = correlated_similarities(np.random.default_rng(5), 4, 500, 4, decimals=decimals, free=1)
    chains = ["a", "a", "a", "b"]
    corners = region.vertices(np.full(4, 0.6), chains)
    whole = pruned(similarities, corners, chains)
    parts = []
    for first, last in zip((0, *cuts), (*cuts, 500)):
        own = pruned(similarities[:, first:last], corners, chains)
        parts.append(Candidates(tuple(rows + first for rows in own.rows), own.similarities))
    assert sum(len(rows) for part in parts for rows in part.rows) > sum(map(len, whole.rows))
    more = {"excluded": np.zeros(500, dtype=bool), "always": [np.empty(0, np.int64)] * 4}
    found = merged_candidates(parts, lambda q, rows: similarities[q, rows], corners, K, **more)
    for one, other in zip(found.rows + found.similarities, whole.rows + whole.similarities):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(PrunesBadly):
        merged_candidates(parts, lambda q, rows: similarities[q, rows], corners, K, **more, limit=3)


def test_a_region_that_prunes_badly_says_so():
    generator = np.random.default_rng(3)
    similarities = generator.random((1, 4000, 6))  # independent layers: hardly anything dominates
    with pytest.raises(PrunesBadly, match="candidates for one query"):
        pruned(similarities, np.eye(6), "123456", limit=50)


def test_a_region_that_prunes_badly_is_known_before_anything_is_settled():
    """Settling thousands of candidates of every query takes minutes, to no use."""
    similarities = np.random.default_rng(3).random((5, 4000, 6))
    blocks = blocks_of(similarities, 97, 1e-5, np.random.default_rng(0), np.ones(6))

    def canonical(query, rows):
        raise AssertionError("settled")

    fast = FastCoordinates(np.eye(6), tuple(region.chain_members("123456")))
    with pytest.raises(PrunesBadly, match="about .* candidates for one query"):
        find_candidates(
            blocks,
            canonical,
            fast,
            K,
            similarity_margin=np.full(6, 3e-5),
            excluded=np.zeros(4000, dtype=bool),
            n_queries=5,
            limit=50,
        )


def test_fast_coordinates_are_the_vertices_scaled():
    generator = np.random.default_rng(8)
    chains = ["a", "b", "a", "a", "c"]  # a chain need not stand together
    corners = region.vertices(generator.uniform(0.2, 1, 5), chains)
    fast = FastCoordinates(corners, tuple(region.chain_members(chains)))
    s = generator.random((40, 5))
    found = np.stack(fast.in_place([(s[:, l] * fast.scale[l]).astype(np.float32) for l in range(5)]), axis=1)
    np.testing.assert_allclose(found, s @ corners.T * fast.scale / np.diag(corners), rtol=1e-5)


def test_map_by_hand():
    # two queries, three items, one layer: q0 ranks 2, 0, 1 (relevant 0): AP 1/2; q1 ranks 1, 0, 2 (relevant 1, 2): (1 + 2/3) / 2
    similarities = np.array([[[0.2], [0.1], [0.9]], [[0.5], [0.7], [0.1]]])
    found = pruned(similarities, np.eye(1), "a")
    padded = scene_of(found, [np.array([0]), np.array([1, 2])])
    assert ranks(padded, np.ones(1)).tolist() == [[2, 0, 1, -1, -1, -1, -1], [1, 0, 2, -1, -1, -1, -1]]
    assert mean_average_precision(padded, np.ones(1)) == pytest.approx((0.5 + (1 + 2 / 3) / 2) / 2)


def test_a_region_that_keeps_far_too_many_is_known_without_comparing_all_pairs(monkeypatch):
    similarities = np.random.default_rng(0).standard_normal((3000, 6))
    compared = []
    counts = candidates.exclusion_counts

    def counted(coordinates, similarities, rows, k, *, items=None):
        compared.append(len(rows) * (len(rows) if items is None else len(items)))
        return counts(coordinates, similarities, rows, k, items=items)

    monkeypatch.setattr(candidates, "exclusion_counts", counted)
    rows = np.arange(3000)
    kept, _ = candidates.settled(rows, similarities, np.eye(6), 7, limit=300)
    assert len(kept) > 300 and sum(compared) < 3000 * 600
    exact, _ = candidates.settled(rows, similarities, np.eye(6), 7, limit=3000)
    assert len(exact) > 450  # as the few looked at say
    some = np.array([0, 7, 2999])
    assert (counts(similarities, similarities, rows, 7, items=some) >= 7).tolist() == [
        row not in exact for row in some
    ]
