"""Blends by rank, reciprocal rank and score, worked out by hand and by loops."""

from __future__ import annotations

import numpy as np
import pytest

from competition.errors import ConfigurationError, Top7Error
from submissions.blend import blend, blend_files
from submissions.checking import Expected
from submissions.submitting import read_scores, write_scores, write_submission

A, B = np.array([[4, 2, 7]]), np.array([[2, 9, 4]])


def test_mean_rank_by_hand():
    ranks, points = blend([A, B], [1, 1], 3)  # points 3 2 1: image 2 has 5, 4 has 4, 9 has 2, 7 has 1
    assert ranks.tolist() == [[2, 4, 9]] and points.tolist() == [[2.5, 2.0, 1.0]]
    assert blend([A, B], [3, 1], 3)[0].tolist() == [[4, 2, 7]]  # 4: 10, 2: 9, 7: 3, 9: 2


def test_reciprocal_ranks_by_hand():
    ranks, points = blend([A, B], [1, 3], 4, method="reciprocal")
    expected = {4: 0.25 / 61 + 0.75 / 63, 2: 0.25 / 62 + 0.75 / 61, 7: 0.25 / 63, 9: 0.75 / 62}
    assert ranks.tolist() == [sorted(expected, key=lambda row: -expected[row])]
    assert points[0] == pytest.approx(sorted(expected.values(), reverse=True))


def test_scores_are_standardised_and_absent_images_get_the_lowest():
    scores = [np.array([[0.9, 0.5, 0.1]]), np.array([[90.0, 80.0, 10.0]])]
    ranks, points = blend([A, B], [1, 1], 4, method="score", all_scores=scores)
    first, second = [((s - s.mean()) / s.std())[0] for s in scores]
    expected = {
        4: first[0] + second[2],
        2: first[1] + second[0],
        7: first[2] + second[2],
        9: first[2] + second[1],
    }
    assert ranks.tolist() == [sorted(expected, key=lambda row: -expected[row])]
    assert points[0] == pytest.approx([expected[row] / 2 for row in ranks[0]])


@pytest.mark.parametrize("method", ("rank", "reciprocal", "score"))
def test_a_submission_with_itself_is_itself(method):
    generator = np.random.default_rng(0)
    ranks = np.stack([generator.permutation(50)[:7] for _ in range(9)])
    scores = np.sort(generator.random((9, 7)))[:, ::-1]
    found = blend([ranks, ranks], [0.3, 0.7], 7, method=method, all_scores=[scores, scores])[0]
    assert (found == ranks).all()
    assert (
        blend([ranks, ranks[::-1]], [1.0, 0.0], 7, method=method, all_scores=[scores, scores])[0][:, 0]
        == ranks[:, 0]
    ).all()


def test_equal_points_go_to_the_lower_row():
    assert blend([np.array([[5, 3]]), np.array([[3, 5]])], [1, 1], 2)[0].tolist() == [[3, 5]]


def test_short_lists_and_missing_answers():
    ranks, points = blend([np.array([[1, -1]]), np.array([[-1, -1]])], [1, 1], 3)
    assert ranks.tolist() == [[1, -1, -1]] and points.tolist() == [[1.0, -np.inf, -np.inf]]
    scores = [np.array([[0.5, -np.inf]]), np.array([[-np.inf, -np.inf]])]
    assert blend([np.array([[1, -1]]), np.array([[-1, -1]])], [1, 1], 3, method="score", all_scores=scores)[
        0
    ].tolist() == [[1, -1, -1]]
    assert np.isfinite(
        blend(
            [np.array([[1, 2, -1]]), np.array([[2, 1, 0]])],
            [1, 1],
            3,
            method="score",
            all_scores=[np.array([[0.5, 0.2, -np.inf]]), np.array([[0.9, 0.2, 0.1]])],
        )[1]
    ).all()


def test_mistakes_are_named():
    for weights in ([1], [1, -1], [0, 0], [1, np.nan]):
        with pytest.raises(ConfigurationError, match="for 2 submissions"):
            blend([A, B], weights, 3)


SPLITS = {"validation": ["v1", "v2"], "test": ["t1", "t2"]}
GALLERY = [f"n{number}" for number in range(12)]
EXPECTED = Expected(SPLITS, GALLERY)


def written(folder, name, queries, seed):
    generator = np.random.default_rng(seed)
    ranks = np.stack([generator.permutation(12)[:7] for _ in queries])
    return write_submission(folder / name, queries, ranks, GALLERY), ranks


def test_files_are_blended_in_the_splits_order(tmp_path):
    first, ranks = written(tmp_path, "a.csv", ["t2", "t1"], 0)
    second, others = written(tmp_path, "b.csv", ["t1", "t2"], 1)
    split, found = blend_files([first, second], [2, 1], EXPECTED)
    assert split == "test" and found.query_ids == ("t1", "t2")
    assert (found.ranks == blend([ranks[::-1], others], [2, 1], 7)[0]).all()
    scores = np.random.default_rng(5).random((2, 7))
    write_scores(first, ["t2", "t1"], scores)
    assert (read_scores(first, ["t1", "t2"], 7) == scores[::-1]).all()
    with pytest.raises(Top7Error, match="b.csv: no b.csv.scores.csv beside it"):
        blend_files([first, second], None, EXPECTED, method="score")
    write_scores(second, ["t1", "t2"], scores)
    _, found = blend_files([first, second], None, EXPECTED, method="score")
    assert (
        found.ranks
        == blend([ranks[::-1], others], [1, 1], 7, method="score", all_scores=[scores[::-1], scores])[0]
    ).all()


def test_files_that_do_not_fit_are_named(tmp_path):
    first, _ = written(tmp_path, "a.csv", ["t1", "t2"], 0)
    second, _ = written(tmp_path, "b.csv", ["v1", "v2"], 1)
    with pytest.raises(Top7Error, match="b.csv answers validation, .*a.csv answers test"):
        blend_files([first, second], None, EXPECTED)
    with pytest.raises(ConfigurationError, match="at least two"):
        blend_files([first], None, EXPECTED)
    (tmp_path / "a.csv.scores.csv").write_text("t1,0.5\n")
    with pytest.raises(Top7Error, match="not the scores of"):
        blend_files([first, first], None, EXPECTED)
