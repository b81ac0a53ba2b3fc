"""The leaderboard file: what is joined, sorted, tolerated and refused."""

import hashlib
import json
import multiprocessing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from competition.errors import ConfigurationError, Top7Error
from competition.leaderboard import (
    FILE,
    file_digest,
    official_correlation,
    rank_correlation,
    read_rows,
    record_official,
    record_score,
)


def submission(folder, name):
    path = folder / f"{name}.csv"
    path.write_text(f"{name},g1\n")
    return path


def scored(folder, name, score, **more):
    path = submission(folder, name)
    maps = {"min(m,k)": score, "hits": min(1.0, 2 * score)}
    entry = {"file": path, "sha256": file_digest(path), "split": "test", "top_k": 7, "maps": maps, **more}
    record_score(folder / "work", {**entry, "file": str(path)})
    return path


def test_rows_best_first_with_everything_recorded(tmp_path):
    scored(tmp_path, "a", 0.2, measured_on="validation", recipe={"weights": [0.5, 0.5]}, note="ä")
    scored(tmp_path, "b", 0.3)
    rows = read_rows(tmp_path / "work")
    assert [row.file for row in rows] == ["b.csv", "a.csv"]
    assert [row.local for row in rows] == [0.3, 0.2]
    assert rows[0].measured_on == "test" and rows[1].measured_on == "validation"
    assert rows[1].maps == {"min(m,k)": 0.2, "hits": 0.4} and rows[1].top_k == 7 and rows[1].split == "test"
    assert rows[1].details == {"recipe": {"weights": [0.5, 0.5]}, "note": "ä"}
    assert rows[1].sha256 == hashlib.sha256(b"a,g1\n").hexdigest()
    assert rows[1].public is rows[1].official is rows[1].moved is None


def test_empty(tmp_path):
    assert read_rows(tmp_path / "nowhere") == []


def test_official_scores_are_joined_by_content(tmp_path):
    path = scored(tmp_path, "a", 0.2)
    renamed = path.rename(tmp_path / "renamed.csv")
    assert record_official(tmp_path / "work", renamed, 0.25) is True
    assert record_official(tmp_path / "work", submission(tmp_path, "b"), 0.5) is False
    rows = read_rows(tmp_path / "work")
    assert [(row.file, row.local, row.official) for row in rows] == [
        ("a.csv", 0.2, 0.25),
        ("b.csv", None, 0.5),
    ]
    record_official(tmp_path / "work", renamed, 0.35)
    scored(tmp_path, "a", 0.21)
    row = read_rows(tmp_path / "work")[0]
    assert (row.local, row.official) == (0.21, 0.35)  # the last of each kind counts


def test_shake_up(tmp_path):
    for name, public, private in [("a", 0.5, 0.1), ("b", 0.4, 0.3), ("c", 0.3, 0.2), ("d", None, None)]:
        scored(tmp_path, name, 0.3, public=public, private=private)
    moved = {row.file[0]: row.moved for row in read_rows(tmp_path / "work")}
    assert moved == {"a": -2, "b": 1, "c": 1, "d": None}


def test_two_submissions_of_a_recipe_are_one_recipe_that_moves(tmp_path):
    for name, public, private in [("first", 0.5, 0.1), ("second", 0.4, 0.3)]:
        for split in ("validation", "test"):
            scored(tmp_path, f"{name}-{split}", 0.3, recipe=name, public=public, private=private)
    moved = {row.file.split("-")[0]: row.moved for row in read_rows(tmp_path / "work")}
    assert moved == {
        "first": -1,
        "second": 1,
    }  # two recipes swap places; four rows would have made it two each


def test_cut_off_last_line(tmp_path):
    scored(tmp_path, "a", 0.2)
    path = tmp_path / "work" / FILE
    whole = path.read_bytes()
    scored(tmp_path, "b", 0.3)
    for length in range(len(whole), len(path.read_bytes()) - 1):
        path.write_bytes(path.read_bytes()[:length] if length > len(whole) else whole)
        assert [row.file for row in read_rows(tmp_path / "work")] == ["a.csv"]
        scored(tmp_path, "b", 0.3)  # and writing goes on behind a cut
        assert [row.file for row in read_rows(tmp_path / "work")] == ["b.csv", "a.csv"]
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_last_line_without_its_line_end_counts(tmp_path):
    scored(tmp_path, "a", 0.2)
    path = tmp_path / "work" / FILE
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read_rows(tmp_path / "work")) == 1
    scored(tmp_path, "b", 0.3)
    assert len(read_rows(tmp_path / "work")) == 2


def test_broken_line_elsewhere(tmp_path):
    scored(tmp_path, "a", 0.2)
    path = tmp_path / "work" / FILE
    path.write_bytes(b"{]\n" + path.read_bytes())
    with pytest.raises(
        Top7Error, match="leaderboard.jsonl: line 1 is no leaderboard entry: remove the line$"
    ):
        read_rows(tmp_path / "work")


def _record_many(folder, name):
    for number in range(10):
        scored(folder, f"{name}{number}", 0.1)


def test_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_record_many, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_rows(tmp_path / "work")) == 30


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_no_map(tmp_path, score):
    expected = r"is no score: expected a number from 0 to 1 \(0.4086 for 40.86 %\)$"
    with pytest.raises(ConfigurationError, match=f"^official score of .*a.csv: .*{expected}"):
        record_official(tmp_path / "work", submission(tmp_path, "a"), score)
    assert not (tmp_path / "work").exists()


def test_missing_file(tmp_path):
    with pytest.raises(Top7Error, match="no.csv: no such submission$"):
        record_official(tmp_path, tmp_path / "no.csv", 0.5)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=10))
def test_rank_correlation_is_spearmans(pairs):
    first, second = zip(*pairs, strict=True)
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_rank_correlation_by_hand(tmp_path):
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation([1, 2], [1, 2]) is None
    assert official_correlation([]) == (0, None)
    for name, local, official in [("a", 0.1, 0.5), ("b", 0.2, 0.4), ("c", 0.3, 0.3)]:
        record_official(tmp_path / "work", scored(tmp_path, name, local), official)
    assert official_correlation(read_rows(tmp_path / "work")) == (3, pytest.approx(-1))
    assert np.isfinite(official_correlation(read_rows(tmp_path / "work"))[1])
