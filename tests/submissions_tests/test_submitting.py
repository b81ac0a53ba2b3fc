"""Submissions as written: exact bytes, and nothing on disk where the ranks are not good."""

import re

import numpy as np
import pytest

from competition.errors import Top7Error
from submissions.checking import Expected, check_submission
from submissions.submitting import write_submission

GALLERY = tuple(f"g{row}" for row in range(9))


def test_bytes(tmp_path):
    ranks = np.array([[8, 0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7, -1]])
    path = write_submission(tmp_path / "new" / "s.csv", ["v2", "vä"], ranks, GALLERY)
    assert path.read_bytes() == "v2,g8,g0,g1,g2,g3,g4,g5\nvä,g1,g2,g3,g4,g5,g6,g7\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["s.csv"]
    check = check_submission(path, Expected({"test": ["vä", "v2"]}, GALLERY))
    assert check.faults == () and check.split == "test"


def test_kaggles_form(tmp_path):
    ranks = np.array([[8, 0, 1], [1, 2, 3]])
    path = write_submission(tmp_path / "s.csv", ["v 2", "vä"], ranks, GALLERY, 3, "kaggle")
    assert path.read_bytes() == "id,images\nv 2,g8 g0 g1\nvä,g1 g2 g3\n".encode()
    check = check_submission(path, Expected({"test": ["vä", "v 2"]}, GALLERY, 3, "kaggle"))
    assert check.faults == () and check.answers == {"v 2": ("g8", "g0", "g1"), "vä": ("g1", "g2", "g3")}


def test_other_top_k(tmp_path):
    path = write_submission(
        tmp_path / "s.csv", ["v"], np.array([[3, 1, 2]], dtype=np.int32), GALLERY, top_k=2
    )
    assert path.read_text() == "v,g3,g1\n"


GOOD = [[0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize(
    "queries, ranks, message",
    [
        ([], np.zeros((0, 7), dtype=int), "no query to answer: expected at least one"),
        (
            ["a", "b"],
            [GOOD[0], [1, 2, 3, 4, 5, -1, -1]],
            "query 'b' has 5 answers: expected 7; the gallery needs at least 7 readable images",
        ),
        (
            ["a", "b"],
            [[0, 1, 2, 3, 4, 5, 0], GOOD[1]],
            "query 'a' is answered by one gallery image twice: expected 7 distinct images",
        ),
    ],
)
def test_refused_before_writing(tmp_path, queries, ranks, message):
    path = tmp_path / "s.csv"
    path.write_text("old\n")
    with pytest.raises(Top7Error, match="^" + re.escape(f"{path}: {message}") + "$"):
        write_submission(path, queries, np.array(ranks), GALLERY)
    assert path.read_text() == "old\n" and len(list(tmp_path.iterdir())) == 1


def test_folder_in_the_way(tmp_path):
    with pytest.raises(Top7Error, match=": is a folder: expected the name of the CSV file to write$"):
        write_submission(tmp_path, ["a"], np.array(GOOD[:1]), GALLERY)
