"""What a recipe misses, against the full ranking and dense sampling of the region."""

import csv

import numpy as np

from tests.tuning_tests.test_candidates import ranks
from tests.tuning_tests.test_combination import K, scenery  # noqa: F401 (a fixture)
from tuning.combination import make_combination
from tuning.misses import find_misses, misses_text, write_misses
from tuning.region import random_coordinates


def test_misses_have_their_place_in_the_full_ranking_and_say_whether_weights_help(scenery, tmp_path):  # noqa: F811
    components, queries, gallery, relevant, public = scenery
    first = make_combination(components, queries, gallery, relevant, public, K, "similarity", None)
    shown = ranks(first.padded, first.corners.mean(axis=0))
    others = [
        np.setdiff1d(rows[rows >= 0], line)[:1] for rows, line in zip(first.padded.rows, shown)
    ]  # candidates, not shown
    relevant = [
        np.union1d(np.append(rows, 3), more) for rows, more in zip(relevant, others)
    ]  # row 3 is unreadable
    made = make_combination(components, queries, gallery, relevant, public, K, "similarity", None)
    weights = made.corners.mean(axis=0)
    misses = find_misses(made.padded, relevant, weights, made.corners, queries, gallery)
    found = {(miss.query, miss.row): miss for miss in misses.itertuples()}
    top = ranks(made.padded, weights)
    scores = sum(
        w * q.descriptors.astype(np.float64) @ g.descriptors.astype(np.float64).T
        for w, q, g in zip(weights, queries, gallery)
    )
    scores[:, gallery[0].unreadable] = -np.inf
    expected = {
        (query, int(row)) for query, rows in enumerate(relevant) for row in rows if row not in top[query]
    }
    assert set(found) == expected and misses["reachable"].any() and not misses["reachable"].all()
    shown = np.zeros((9, 400), dtype=bool)
    for point in random_coordinates(1500, 3, np.random.default_rng(0)) @ made.corners:
        for query, line in enumerate(ranks(made.padded, point)):
            shown[query, line[line >= 0]] = True
    for (query, row), miss in found.items():
        if row == 3:
            assert miss.place == 0 and not miss.reachable
            continue
        order = np.lexsort((np.arange(400), -scores[query]))
        if query != 8:  # that query is unreadable: all its scores tie
            assert abs(miss.place - 1 - int(np.flatnonzero(order == row)[0])) <= 1
        assert abs(miss.short_by - (scores[query, order[K - 1]] - scores[query, row])) < 1e-9
        assert miss.reachable or not shown[query, row]  # what is called out of reach no sampled weights show
    path = write_misses(
        tmp_path / "missed.csv", misses, [f"v{n}" for n in range(9)], [f"n{n}" for n in range(400)], ~public
    )
    rows = list(csv.DictReader(path.open()))
    assert (
        len(rows) == len(misses)
        and rows[-1]["place"] == "unreadable"
        and rows[0]["part"] in ("public", "private")
    )
    assert "unreadable" in misses_text(misses, sum(map(len, relevant)), K)
