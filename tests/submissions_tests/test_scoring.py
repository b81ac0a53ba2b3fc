"""Scores of submission files: by hand, both conventions, and which files are refused."""

import re

import numpy as np
import pytest

from competition.errors import Top7Error
from competition.images import list_images
from competition.labels import read_labels, relevant_rows
from competition.metrics import CONVENTIONS, query_figures
from submissions.checking import Expected, read_submission
from submissions.scoring import score_submission
from submissions.submitting import write_submission

GALLERY = [f"g{row}" for row in range(10)]
SPLITS = {"validation": ["v1", "v2"], "test": ["t1", "t2"]}
EXPECTED = Expected(SPLITS, GALLERY)


def files(folder, labels="v1,g1\nv2,g0,g9\n"):
    (folder / "s.csv").write_text("v2,g0,g1,g2,g3,g4,g5,g6\nv1,g0,g1,g2,g3,g4,g5,g6\n")
    (folder / "val.csv").write_text(labels)
    return folder / "s.csv", folder / "val.csv"


def test_by_hand(tmp_path):
    path, labels = files(tmp_path)
    split, known, figures = score_submission(path, labels, EXPECTED)
    assert (split, list(known)) == ("validation", ["v1", "v2"])
    assert figures["min(m,k)"].tolist() == [1 / 2, 1 / 2]  # in the order of the split
    assert figures["hits"].tolist() == [1 / 2, 1]


def test_labels_of_some_queries(tmp_path):
    path, labels = files(tmp_path, "query,gallery\nv2,g0,g9\n")
    _, known, figures = score_submission(path, labels, EXPECTED)
    assert list(known) == ["v2"] and (figures["min(m,k)"], figures["hits"]) == ([1 / 2], [1])


def test_refused(tmp_path):
    path, labels = files(tmp_path, "t1,g0\n")
    with pytest.raises(
        Top7Error, match="val.csv: line 1: unknown query 't1': expected one of the 2 query ids"
    ):
        score_submission(path, labels, EXPECTED)
    path.write_text("v2,g0,g1,g2,g3,g4,g5,g6\n")
    message = f"{path}: 1 fault, the first on line 2: query 'v1' of validation is missing: add its line; "
    with pytest.raises(
        Top7Error, match="^" + re.escape(f"{message}./run.sh check {path} lists them all") + "$"
    ):
        score_submission(path, labels, EXPECTED)
    path.write_text("v2,g0\nv2,g0\n")
    with pytest.raises(
        Top7Error, match="s.csv: 4 faults, the first on line 1: 1 gallery ids: expected 7; ./run.sh check"
    ):
        read_submission(path, EXPECTED)


def test_grocery_submission_scores_as_its_ranks(tmp_path, shared):
    gallery, queries = (list_images(shared / "grocery" / name).ids for name in ("gallery", "val"))
    labels_path = shared / "grocery" / "val.csv"
    relevant = relevant_rows(read_labels(labels_path, query_ids=queries, gallery_ids=gallery), gallery)
    rng = np.random.default_rng(0)
    ranks = np.array(
        [rng.permutation(np.append(rows[:3], rng.permutation(567)[:20]))[:7] for rows in relevant]
    )
    ranks = np.array([list(dict.fromkeys([*row, *range(14)]))[:7] for row in ranks.tolist()])
    path = write_submission(tmp_path / "s.csv", queries, ranks, gallery)
    _, _, figures = score_submission(path, labels_path, Expected({"validation": queries}, gallery))
    for convention in CONVENTIONS:
        wanted = query_figures(ranks, relevant, 7, convention=convention)
        assert (figures[convention] == wanted).all() and wanted.mean() > 0
