"""Dumps on disk through a recipe's steps: identities, what is kept, what is left out."""

from __future__ import annotations

import numpy as np

from features.dumps import Dump, row_sums
from features.ranked_lists import rank_dumps
from features.ranking.state import dump_identity
from tests.features_tests.ranking_references import clustered, rank

STEPS = [
    {"step": "whiten", "dim": 6},
    {"step": "augment", "neighbours": 2},
    {"step": "expand", "neighbours": 2},
]


def dump(folder, name, rows, unreadable=()):
    rows = rows.copy()
    rows[list(unreadable)] = 0
    norms = np.linalg.norm(rows, axis=1).astype(np.float32)
    np.save(folder / f"{name}.npy", rows)
    np.save(folder / f"{name}.sums.npy", row_sums(rows, norms))
    return Dump(
        folder / f"{name}.npy",
        tuple(f"i{n}" for n in range(len(rows))),
        np.load(folder / f"{name}.npy", mmap_mode="r"),
        norms,
        ~rows.any(axis=1),
        {},
        {},
    )


def test_dumps_give_the_lists_of_their_arrays(tmp_path):
    gallery = [dump(tmp_path, f"g{d}", clustered(40, d, 1), [3]) for d in (9, 12)]
    queries = [dump(tmp_path, f"q{d}", clustered(5, d, 2), [1]) for d in (9, 12)]
    left_out = np.arange(40) == 8
    expected = rank(
        [np.array(d.descriptors) for d in queries],
        [np.array(d.descriptors) for d in gallery],
        [0.5, 0.5],
        STEPS,
        7,
        excluded=(np.arange(40) == 3) | left_out,
    )
    kept = tmp_path / "ranking"
    for folder in (None, kept, kept):
        ranks, scores = rank_dumps(queries, gallery, [0.5, 0.5], STEPS, 7, folder=folder, left_out=left_out)
        assert (ranks == expected[0]).all() and (scores == expected[1]).all()
    assert ranks[1].tolist() == [0, 1, 2, 4, 5, 6, 7]  # an unreadable query
    written = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    rank_dumps(queries, gallery, [0.5, 0.5], STEPS, 7, folder=kept, left_out=left_out)
    assert written == {path: path.stat().st_mtime_ns for path in kept.iterdir()}


def test_another_row_is_another_identity(tmp_path):
    rows = clustered(40, 9, 1)
    first = dump_identity(dump(tmp_path, "g", rows))
    assert dump_identity(dump(tmp_path, "g", rows)) == first
    rows[17, 2] += 0.25
    assert dump_identity(dump(tmp_path, "g", rows)) != first
