"""Shards on a real Dask cluster of several processes: the same lists as one machine's, whoever dies meanwhile."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from competition.errors import Top7Error
from features.search import sharding
from features.search.exact_search import merged, search
from features.search.row_views import RowView
from features.search.sharding import map_over_shards, on_cluster
from tests.features_tests.ranking_references import clustered

ROWS = 2000


@pytest.fixture()
def stored(tmp_path, monkeypatch):
    """Two components of a gallery in files, with equal rows and a row that takes part in nothing, and queries."""
    monkeypatch.setattr(sharding, "SHARD_ROWS", 100)
    gallery = []
    for dimension in (9, 14):
        rows = clustered(ROWS, dimension, 1).astype(np.float32)
        rows[[150, 1100, 1900]] = rows[3]  # ties across shards
        rows[7] = 0
        np.save(tmp_path / f"{dimension}.npy", rows)
        gallery.append(np.load(tmp_path / f"{dimension}.npy", mmap_mode="r"))
    queries = [clustered(40, dimension, 2).astype(np.float32) for dimension in (9, 14)]
    queries = [
        np.concatenate([part, np.asarray(rows[[3, 7]])]) for part, rows in zip(queries, gallery)
    ]  # the last: an empty query
    return queries, gallery, np.arange(ROWS) % 50 == 7


def killed_once(blocks: list[np.ndarray], own: int, flag: Path) -> np.ndarray:
    """The first block that another process than `own` reads ends that process."""
    if os.getpid() != own:
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), 9)
    return blocks[0]


@pytest.mark.slow
def test_lists_of_a_cluster_whose_worker_dies_are_one_machines(stored, dask_cluster, tmp_path, monkeypatch):
    queries, gallery, excluded = stored
    expected = search(queries, gallery, [0.3, 0.7], 7, excluded=excluded)
    flag = tmp_path / "killed"
    gallery[0] = RowView([gallery[0]], partial(killed_once, own=os.getpid(), flag=flag), 9, np.float32)
    with on_cluster(dask_cluster.scheduler_address):
        shards = len(sharding._ranges(ROWS, sharding._workers()))
        found = search(queries, gallery, [0.3, 0.7], 7, excluded=excluded)
    assert shards >= 8 and flag.exists()
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_lies_in_no_file_and_lists_longer_than_a_shard(stored, dask_cluster):
    queries, gallery, excluded = stored
    expected = search(queries, gallery, [1, 0], 1990, excluded=excluded)
    gallery[0] = np.array(gallery[0])
    with on_cluster(dask_cluster.scheduler_address):
        found = search(queries, gallery, [1, 0], 1990, excluded=excluded)
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_worker_says_which_file_it_lacks(stored, dask_cluster, monkeypatch):
    queries, gallery, _ = stored
    place = sharding._place
    monkeypatch.setattr(
        sharding, "_place", lambda array: (found := place(array)) and (Path("/no/such.npy"), *found[1:])
    )
    with (
        on_cluster(dask_cluster.scheduler_address),
        pytest.raises(Top7Error, match="worker on .*: /no/such.npy: No such"),
    ):
        search(queries, gallery, [1, 1], 7)


@pytest.mark.slow
def test_a_worker_refuses_another_file_of_that_name(stored, dask_cluster, monkeypatch):
    queries, gallery, _ = stored
    place = sharding._place
    monkeypatch.setattr(sharding, "_place", lambda array: (f := place(array)) and (f[0], f[1] + 1, *f[2:]))
    with on_cluster(dask_cluster.scheduler_address), pytest.raises(Top7Error, match="another file"):
        search(queries, gallery, [1, 1], 7)


@pytest.mark.slow
def test_a_worker_names_the_row_that_is_not_finite(stored, dask_cluster, tmp_path):
    queries, gallery, _ = stored
    rows = np.array(gallery[0])
    rows[1234, 2] = np.nan
    np.save(tmp_path / "bad.npy", rows)
    gallery[0] = np.load(tmp_path / "bad.npy", mmap_mode="r")
    with (
        on_cluster(dask_cluster.scheduler_address),
        pytest.raises(Top7Error, match="component 0 of the gallery: row 1234 "),
    ):
        search(queries, gallery, [1, 1], 7)


def test_a_mapped_part_travels_as_a_path(stored, monkeypatch):
    _, gallery, _ = stored
    for part in (gallery[1], np.asarray(gallery[1]), gallery[1][100:], np.asarray(gallery[1])[30:900]):
        sent = sharding._by_path(partial(len, part))
        assert len(sent) < 1000
        again = sharding.pickle.loads(sent).args[0]
        np.testing.assert_array_equal(again, part)
    assert len(sharding._by_path(partial(len, np.array(gallery[1])))) > gallery[1].nbytes


def test_lists_of_threads_are_those_of_one(stored, monkeypatch):
    queries, gallery, excluded = stored
    found, heard = [], []
    for count in (1, 3):
        monkeypatch.setattr(sharding, "thread_count", lambda count=count: count)
        found.append(search(queries, gallery, [0.3, 0.7], 7, excluded=excluded))
        list(map_over_shards(lambda start, stop, done: done(stop - start), ROWS, heard.append, threaded=True))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
    assert len(heard) == 1 + 3 * sharding.SHARDS_A_WORKER and sum(heard) == 2 * ROWS


def test_without_a_cluster_everything_is_one_piece():
    heard = []
    assert list(map_over_shards(lambda start, stop, done: done(5) or (start, stop), 10**9, heard.append)) == [
        (0, 10**9)
    ]
    assert heard == [5]


def test_no_scheduler_is_one_line(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(sharding, "ANSWER_S", 0.2)
    with pytest.raises(Top7Error, match="--cluster tcp://127.0.0.1:9: no Dask scheduler answers there"):
        with on_cluster("tcp://127.0.0.1:9"):
            raise AssertionError("not reached")


def test_merged_lists_keep_missing_places_last():
    one = np.array([[4, -1, -1]]), np.array([[0.5, -np.inf, -np.inf]])
    other = np.array([[9, 7, -1]]), np.array([[0.5, -2.0, -np.inf]])
    ranks, scores = merged([other, one], 4)
    assert ranks.tolist() == [[4, 9, 7, -1]] and scores.tolist() == [[0.5, 0.5, -2.0, -np.inf]]
