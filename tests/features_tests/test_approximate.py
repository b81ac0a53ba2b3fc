"""faiss indexes: exhaustive settings give the exact lists, recall is counted by hand, files are complete or
absent.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from competition.errors import ConfigurationError, Top7Error
from features.ranking import approximate
from features.ranking.approximate import BUILDERS, Index, approximate_search, build_index, recall
from features.search import search
from tests.features_tests.ranking_references import clustered

WEIGHTS = [0.25, 0.75]


@pytest.fixture(scope="module")
def data():
    gallery, queries = [clustered(1500, d, 1) for d in (16, 24)], [clustered(20, d, 2) for d in (16, 24)]
    for part in gallery:
        part[7] = part[3]
        part[9] = 0
    return queries, gallery, np.arange(1500) == 9


EXHAUSTIVE = {"hnsw": {"breadth": 1500}, "ivfpq": {"probes": 10**6}, "ivf_ondisk": {"probes": 10**6}}


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_exhaustive_search_is_exact(kind, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(approximate, "SHARD_ROWS", 400)
    queries, gallery, excluded = data
    index = build_index(gallery, WEIGHTS, kind, tmp_path, excluded=excluded, **EXHAUSTIVE[kind])
    ranks, scores, share = approximate_search(
        index, queries, gallery, WEIGHTS, 7, candidates=1499, excluded=excluded
    )
    expected = search(queries, gallery, WEIGHTS, 7, excluded=excluded)
    assert share >= (0.99 if kind == "hnsw" else 1.0)  # a graph may leave images unreachable
    if kind != "hnsw":
        assert (ranks == expected[0]).all() and (scores == expected[1]).all()
    error = capsys.readouterr().err
    assert "recall@7" in error and "20 of 20 queries" in error
    assert not (ranks == 9).any()


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_index_is_built_once_and_moves_with_its_folder(kind, data, tmp_path, monkeypatch):
    queries, gallery, excluded = data
    first, second = tmp_path / "first", tmp_path / "second"
    index = build_index(gallery, WEIGHTS, kind, first, excluded=excluded)
    expected = approximate_search(index, queries, gallery, WEIGHTS, 7, excluded=excluded)
    shutil.move(first, second)
    monkeypatch.setitem(BUILDERS, kind, None)  # not called again
    index = build_index(gallery, WEIGHTS, kind, second, excluded=excluded)
    again = approximate_search(index, queries, gallery, WEIGHTS, 7, excluded=excluded)
    assert (again[0] == expected[0]).all() and again[2] == expected[2] > 0.5
    assert not list(second.glob("*.partial"))
    with pytest.raises(TypeError):
        build_index(gallery, [0.5, 0.5], kind, second, excluded=excluded)  # other weights: another index


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("count", [1, 3, 50])
def test_small_galleries(kind, count, tmp_path):
    gallery = clustered(count, 10, 0)
    index = build_index([gallery], [1.0], kind, tmp_path)
    ranks, scores, share = approximate_search(index, [gallery[:1]], [gallery], [1.0], 7)
    assert ranks[0, 0] == 0 and scores[0, 0] == pytest.approx(1)
    if count < 7:
        assert (ranks[0, count:] == -1).all() and share == 1.0


def test_recall_by_hand():
    assert recall(np.array([[1, 2, 3], [4, 5, -1]]), np.array([[3, 1, 9], [5, 4, -1]])) == 4 / 5
    assert recall(np.empty((0, 3), int), np.empty((0, 3), int)) == 0.0


def test_mistakes_are_named(data, tmp_path):
    _, gallery, _ = data
    with pytest.raises(ConfigurationError, match="did you mean 'hnsw'"):
        build_index(gallery, WEIGHTS, "hnws", tmp_path)
    with pytest.raises(ConfigurationError, match="has no 'probe': did you mean 'probes'"):
        build_index(gallery, WEIGHTS, "ivfpq", tmp_path, probe=3)
    with pytest.raises(Top7Error, match="every gallery image is unreadable"):
        build_index(gallery, WEIGHTS, "hnsw", tmp_path, excluded=np.ones(1500, bool))
    (tmp_path / "x.faiss").write_bytes(b"nothing")
    with pytest.raises(Top7Error, match="not a readable index"):
        approximate_search(
            Index(tmp_path / "x.faiss", "hnsw", {}, np.arange(2)), gallery, gallery, WEIGHTS, 7
        )
