"""Query expansion, database-side augmentation and neighbour graphs against loops written out here."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from competition.errors import ConfigurationError, Top7Error
from features.dumps import derived as derived_module
from features.dumps.derived import content_digest, derived
from features.ranking.augmentation import augmented_rows
from features.ranking.expansion import WEIGHTINGS, expand
from features.ranking.neighbours import duration, neighbour_graph, without_self
from features.search import search
from features.similarity import component_similarity


def unit_rows(count, dimension, seed):
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_weight(kind, place, count, similarity, alpha):
    return {
        "average": 1.0,
        "weighted": (count - place) / (count + 1),
        "alpha": max(similarity, 0.0) ** alpha,
    }[kind]


@pytest.mark.parametrize("kind", WEIGHTINGS)
@pytest.mark.parametrize("count", [0, 1, 4, 30])
def test_expansion_equals_a_loop(kind, count):
    gallery, queries = [unit_rows(9, d, d) for d in (5, 8)], [unit_rows(4, d, d + 1) for d in (5, 8)]
    before = [part.copy() for part in gallery + queries]
    ranks, scores = search(queries, gallery, [0.4, 0.6], max(count, 1))
    found = expand(queries, gallery, ranks, scores, neighbours=count, kind=kind, alpha=2.5)
    for layer in range(2):
        for query in range(4):
            total = queries[layer][query].astype(float)
            for place in range(min(count, 9)):
                weight = naive_weight(kind, place, count, scores[query, place], 2.5)
                total = total + weight * gallery[layer][ranks[query, place]].astype(float)
            assert found[layer].dtype == np.float32
            assert found[layer][query] == pytest.approx(total / np.linalg.norm(total), abs=1e-7)
    assert all((a == b).all() for a, b in zip(before, gallery + queries))


def test_an_expansion_that_finds_only_the_query_itself_changes_nothing():
    query = unit_rows(1, 16, 0)
    for gallery in (query, np.concatenate([query] * 5)):
        ranks, scores = search([query], [gallery], [1.0], 7)
        for kind in WEIGHTINGS:
            (found,) = expand([query], [gallery], ranks, scores, neighbours=7, kind=kind)
            assert found == pytest.approx(query, abs=1e-7)
            assert (search([found], [gallery], [1.0], 7)[0] == ranks).all()


def test_zero_queries_stay_zero_and_excluded_rows_add_nothing():
    gallery = unit_rows(6, 4, 3)
    gallery[2] = 0
    queries = np.concatenate([np.zeros((1, 4), np.float32), unit_rows(1, 4, 5)])
    ranks, scores = search([queries], [gallery], [1.0], 9, excluded=~gallery.any(axis=1))
    (found,) = expand([queries], [gallery], ranks, scores, neighbours=9)
    assert (found[0] == 0).all()
    total = queries[1].astype(float) + gallery.astype(float).sum(0)
    assert found[1] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def test_wrong_arguments_are_named():
    rows = unit_rows(3, 4, 0)
    ranks, scores = search([rows], [rows], [1.0], 2)
    with pytest.raises(ConfigurationError, match="did you mean 'average'"):
        expand([rows], [rows], ranks, scores, neighbours=1, kind="avrage")
    with pytest.raises(ConfigurationError, match="alpha = -1"):
        expand([rows], [rows], ranks, scores, neighbours=1, kind="alpha", alpha=-1)
    with pytest.raises(ConfigurationError, match="-2 neighbours"):
        expand([rows], [rows], ranks, scores, neighbours=-2)
    with pytest.raises(Top7Error, match="for 3 rows"):
        expand([rows], [rows], ranks[:2], scores[:2], neighbours=1)


def naive_graph(gallery, weights, k, excluded):
    total = len(gallery[0])
    rows, scores = np.full((total, k), -1), np.full((total, k), -np.inf)
    for i in range(total):
        if excluded[i]:
            continue
        others = [
            (-sum(w * component_similarity(g[i], g[j : j + 1])[0] for g, w in zip(gallery, weights)), j)
            for j in range(total)
            if j != i and not excluded[j]
        ]
        for place, (negative, j) in enumerate(sorted(others)[:k]):
            rows[i, place], scores[i, place] = j, -negative
    return rows, scores


@pytest.mark.parametrize("total, k", [(1, 3), (5, 7), (40, 3), (40, 39)])
def test_the_graph_equals_a_loop(total, k, tmp_path):
    gallery = [unit_rows(total, d, d) for d in (6, 11)]
    excluded = np.zeros(total, bool)
    if total == 40:
        for part in gallery:
            part[10:30] = part[3]  # more duplicates than neighbours
            part[5] = 0
        excluded[5] = True
    expected = naive_graph(gallery, [0.3, 0.7], k, excluded)
    for folder in (None, tmp_path, tmp_path):  # in memory, computed, opened again
        for threads in (1, 2):
            with threadpool_limits(threads):
                found = neighbour_graph(
                    gallery, [0.3, 0.7], k, excluded=excluded, folder=folder, query_rows=7
                )
            assert found[0].dtype == np.int32 and found[1].dtype == np.float64
            assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
    kept = sorted(path.suffixes for path in tmp_path.iterdir())
    assert kept == [[".json"], [".rows", ".npy"], [".scores", ".npy"]]


def test_another_gallery_or_weight_gets_its_own_graph(tmp_path):
    gallery = unit_rows(9, 4, 0)
    neighbour_graph([gallery], [1.0], 2, folder=tmp_path)
    neighbour_graph([gallery], [0.5], 2, folder=tmp_path)
    neighbour_graph([gallery[::-1].copy()], [1.0], 2, folder=tmp_path)
    neighbour_graph([gallery], [1.0], 2, folder=tmp_path, excluded=np.arange(9) == 4)
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_own_rows_are_taken_out():
    ranks = np.array([[0, 5, 6], [7, 8, 9], [4, 2, 3]])
    rows, scores = without_self(ranks, ranks / 10, 0)
    assert rows.tolist() == [[5, 6], [7, 8], [4, 3]] and scores.tolist() == [
        [0.5, 0.6],
        [0.7, 0.8],
        [0.4, 0.3],
    ]


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_augmentation_uses_each_images_own_neighbours(kind):
    gallery = [unit_rows(12, d, d) for d in (6, 11)]
    for part in gallery:
        part[4] = 0
    before = [part.copy() for part in gallery]
    excluded = np.arange(12) == 4
    rows, scores = neighbour_graph(gallery, [0.5, 0.5], 3, excluded=excluded)
    blocks = [
        augmented_rows(gallery, start, min(start + 5, 12), rows, scores, neighbours=3, kind=kind)
        for start in (0, 5, 10)
    ]
    for layer in range(2):
        found = np.concatenate([block[layer] for block in blocks])
        for i in range(12):
            total = gallery[layer][i].astype(float)
            for place in range(3):
                if not excluded[i]:
                    total = total + (
                        naive_weight(kind, place, 3, scores[i, place], 3.0)
                        * gallery[layer][rows[i, place]].astype(float)
                    )
            expected = total / np.linalg.norm(total) if not excluded[i] else total
            assert found[i] == pytest.approx(expected, abs=1e-7)
        assert (gallery[layer] == before[layer]).all()


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


def test_damage_and_a_full_disk_are_one_line(tmp_path, monkeypatch):
    derived(tmp_path, "x", {"a": 1}, 10, COLUMNS, squares([]))
    path, calls = next(tmp_path.glob("*.powers.npy")), []
    path.write_bytes(path.read_bytes()[:-9])
    found = derived(tmp_path, "x", {"a": 1}, 10, COLUMNS, squares(calls))
    assert calls and (found["powers"] == np.arange(10)[:, None] ** np.arange(1, 3)).all()
    monkeypatch.setattr(derived_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(Top7Error, match="needs 0.00 GB"):
        derived(tmp_path, "y", {"a": 1}, 10, COLUMNS, squares([]))


@pytest.mark.parametrize("harm", ["rows", "note", "header"])
def test_what_an_interrupted_call_left_damaged_is_computed_again(tmp_path, harm):
    def broken(start, stop):
        if start == 6:
            raise KeyboardInterrupt
        return squares([])(start, stop)

    with pytest.raises(KeyboardInterrupt):
        derived(tmp_path, "x", {}, 10, COLUMNS, broken, block_rows=3)
    path = next(tmp_path.glob("*.partial.json" if harm == "note" else "*.powers.npy.partial"))
    data = bytearray(path.read_bytes())
    data[{"rows": 136, "note": 3, "header": 20}[harm]] ^= 8
    path.write_bytes(data)
    calls = []
    found = derived(tmp_path, "x", {}, 10, COLUMNS, squares(calls), block_rows=3)
    assert calls == [0, 3, 6, 9]
    assert (found["powers"] == np.arange(10)[:, None] ** np.arange(1, 3)).all()


def test_room_is_reserved_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    calls = []
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        Top7Error, match="x-.*: the disk is full: make room there and run the same command again"
    ):
        derived(tmp_path, "x", {}, 10, COLUMNS, squares(calls))
    assert not calls and not list(tmp_path.glob("x-*"))
    monkeypatch.delattr(os, "posix_fallocate")  # where there is none, zeros are written
    assert derived(tmp_path, "x", {}, 10, COLUMNS, squares(calls))["numbers"].tolist() == list(range(10))


def test_an_empty_matrix_is_kept_too(tmp_path):
    assert derived(tmp_path, "x", {}, 0, COLUMNS, squares([]))["powers"].shape == (0, 2)
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["rows"] == 0


def test_digests_tell_contents_apart():
    rows = unit_rows(5000, 3, 1)
    other = rows.copy()
    other[4999, 2] += 1
    assert content_digest(rows) == content_digest(rows.copy()) != content_digest(other)
    assert content_digest(rows) != content_digest(rows.astype(np.float64))


def test_durations_are_readable():
    assert [duration(s) for s in (4, 600, 6120)] == ["4 s", "10 min", "1.7 h"]
