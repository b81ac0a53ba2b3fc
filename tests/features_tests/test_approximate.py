"""faiss indexes: exhaustive settings give the exact lists, recall is counted by hand, files are complete or
absent.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from competition.errors import ConfigurationError, Top7Error
from features.ranking.steps import with_index
from features.ranking.steps.approximate import approximate_search, recall
from features.search import faiss_builders
from features.search.exact_search import search
from features.search.faiss_builders import BUILDERS
from features.search.faiss_indexes import Index, build_index
from tests.features_tests.ranking_references import clustered, rank, start

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = [0.25, 0.75]


def approximately(index, queries, gallery, weights, k, excluded=None, **more):
    return approximate_search(index, start(queries, gallery, weights, k, excluded=excluded), **more)


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
    monkeypatch.setattr(faiss_builders, "SHARD_ROWS", 400)
    queries, gallery, excluded = data
    index = build_index(gallery, WEIGHTS, kind, tmp_path, excluded=excluded, **EXHAUSTIVE[kind])
    ranks, scores, share = approximately(
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
    expected = approximately(index, queries, gallery, WEIGHTS, 7, excluded=excluded)
    shutil.move(first, second)
    monkeypatch.setitem(BUILDERS, kind, None)  # not called again
    index = build_index(gallery, WEIGHTS, kind, second, excluded=excluded)
    again = approximately(index, queries, gallery, WEIGHTS, 7, excluded=excluded)
    assert (again[0] == expected[0]).all() and again[2] == expected[2] > 0.5
    assert not list(second.glob("*.partial"))
    with pytest.raises(TypeError):
        build_index(gallery, [0.5, 0.5], kind, second, excluded=excluded)  # other weights: another index


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("count", [1, 3, 50])
def test_small_galleries(kind, count, tmp_path):
    gallery = clustered(count, 10, 0)
    index = build_index([gallery], [1.0], kind, tmp_path)
    ranks, scores, share = approximately(index, [gallery[:1]], [gallery], [1.0], 7)
    assert ranks[0, 0] == 0 and scores[0, 0] == pytest.approx(1)
    if count < 7:
        assert (ranks[0, count:] == -1).all() and share == 1.0


AFTER = {
    "nothing": [],
    "whitened": [{"step": "whiten", "dim": 12, "exponent": 0.5}],
    "augmented": [{"step": "augment", "neighbours": 2}],
    "concatenated, z-normalised": [{"step": "concatenate"}, {"step": "znormalise"}],
    "expanded": [{"step": "expand", "neighbours": 3}],
    "Euclidean": [{"step": "measure", "name": "euclidean_normalised"}],
}


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("before", AFTER)
def test_as_a_last_step_it_gives_the_lists_of_the_steps_before(kind, before, data, tmp_path, capsys):
    queries, gallery, excluded = data
    queries = [np.concatenate([part, np.zeros((1, part.shape[1]), np.float32)]) for part in queries]
    options = {"excluded": excluded, "folder": tmp_path, "identity": ["a", "b"], "unit": True}
    last = {"step": "approximate", "index": kind, **EXHAUSTIVE[kind], "candidates": 1499}
    found = rank(queries, gallery, WEIGHTS, [*AFTER[before], last], 7, **options)
    expected = rank(queries, gallery, WEIGHTS, AFTER[before], 7, **options)
    same = (found[0] == expected[0]).all(axis=1)
    assert same.mean() >= (0.9 if kind == "hnsw" else 1.0) and (found[1][same] == expected[1][same]).all()
    assert (found[0][-1] == expected[0][-1]).all()  # a query of an unreadable image
    assert "recall@7" in capsys.readouterr().err and len(list(tmp_path.glob("index-*.faiss"))) == 1


def test_what_the_index_is_of_names_its_file(data, tmp_path, capsys):
    queries, gallery, excluded = data

    def built(steps, identity=("a", "b"), weights=WEIGHTS, excluded=excluded, **more):
        last = {"step": "approximate", "index": "ivfpq", **more}
        rank(
            queries,
            gallery,
            weights,
            [*steps, last],
            7,
            excluded=excluded,
            folder=tmp_path,
            identity=identity,
        )
        return frozenset(path.name for path in tmp_path.glob("index-*.faiss"))

    whitened = [{"step": "whiten", "dim": 12}]
    found = [
        built(whitened),
        built([]),
        built([], identity=("a", "c")),
        built([], weights=[0.5, 0.5]),
        built([], excluded=None),
        built([], seed=1),
        built([], lists=5),
        built([{"step": "whiten", "dim": 11}]),
    ]
    assert [len(names) for names in found] == list(range(1, 9))
    capsys.readouterr()
    expanded = [*whitened, {"step": "expand", "neighbours": 2}]
    assert built(expanded) == built([], probes=3) == built([], candidates=20) == found[-1]  # the same gallery
    assert (
        built([], weights=[0.0, 1.0]) - found[-1]
        == built([], weights=[0.0, 1.0], identity=("x", "b")) - found[-1]
    )
    assert capsys.readouterr().err.count("built once") == 1


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_index_is_built_to_the_same_bytes_and_by_one_of_several_processes(kind, data, tmp_path):
    _, gallery, _ = data
    np.save(tmp_path / "g.npy", gallery[1])
    code = (
        "import logging, sys, numpy as np; from pathlib import Path; from features.search.faiss_indexes import build_index; "
        "logging.basicConfig(level='INFO'); "
        "build_index([np.load(sys.argv[1])], [1.0], sys.argv[2], Path(sys.argv[3]))"
    )
    together = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "g.npy", kind, tmp_path / "shared"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in together]
    assert [process.returncode for process in together] == [0, 0], said
    assert sum("built once" in text for text in said) == 1
    path = build_index([gallery[1]], [1.0], kind, tmp_path / "alone").path
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "shared").iterdir() if file.suffix != ".lock")
    for name in names:
        # an on-disk index holds its path, which is not read
        if kind != "ivf_ondisk" or name.endswith(".lists"):
            assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()


@pytest.mark.parametrize("kind", BUILDERS)
def test_lists_depend_on_no_other_query_and_on_no_threads(kind, data, tmp_path):
    queries, gallery, excluded = data
    many = [
        np.concatenate([part, clustered(60, part.shape[1], 5)]) for part in queries
    ]  # past faiss's limit for products
    index = build_index(gallery, WEIGHTS, kind, tmp_path, excluded=excluded)
    expected = approximately(index, many, gallery, WEIGHTS, 7, candidates=10, excluded=excluded)
    for threads in (1, 2):
        with threadpool_limits(threads):
            for query in range(0, 80, 7):
                one = [part[query : query + 1] for part in many]
                found = approximately(index, one, gallery, WEIGHTS, 7, candidates=10, excluded=excluded)
                assert (found[0][0] == expected[0][query]).all() and (found[1][0] == expected[1][query]).all()


def test_queries_whose_clusters_hold_too_few_are_searched_exactly(tmp_path, capsys):
    gallery, queries = clustered(200, 10, 0), clustered(30, 10, 1)
    index = build_index([gallery], [1.0], "ivf_ondisk", tmp_path, lists=100, probes=1)
    ranks, scores, _ = approximately(index, [queries], [gallery], [1.0], 7)
    expected = search([queries], [gallery], [1.0], 7)
    assert (ranks >= 0).all() and (ranks == expected[0]).all(axis=1).sum() >= 20
    assert "fewer than 7 images" in capsys.readouterr().err


def test_a_read_only_folder_serves(data, tmp_path):
    queries, gallery, excluded = data
    folder = tmp_path / "ranking"
    for kind in BUILDERS:
        build_index(gallery, WEIGHTS, kind, folder, excluded=excluded)
    for path in [*folder.iterdir(), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    try:
        for kind in BUILDERS:
            index = build_index(gallery, WEIGHTS, kind, folder, excluded=excluded)
            assert approximately(index, queries, gallery, WEIGHTS, 7, excluded=excluded)[2] > 0.5
    finally:
        folder.chmod(0o755)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_index_takes_the_place_of_plain_search_alone():
    expand = {"step": "expand", "neighbours": 2}
    assert with_index([], "hnsw", "r") == ({"step": "approximate", "index": "hnsw"},)
    assert with_index([expand], "ivfpq", "r") == (expand, {"step": "approximate", "index": "ivfpq"})
    own = {"step": "approximate", "index": "hnsw", "links": 8}
    assert with_index([expand, own], "hnsw", "r") == (expand, own)
    assert with_index([own], "ivfpq", "r") == ({"step": "approximate", "index": "ivfpq"},)
    with pytest.raises(ConfigurationError, match="recipe r ends in diffuse"):
        with_index([{"step": "diffuse"}], "hnsw", "r")
    with pytest.raises(ConfigurationError, match="did you mean 'ivf_ondisk'"):
        with_index([], "ivf_ondsk", "r")


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
        approximately(Index(tmp_path / "x.faiss", "hnsw", {}, np.arange(2)), gallery, gallery, WEIGHTS, 7)
