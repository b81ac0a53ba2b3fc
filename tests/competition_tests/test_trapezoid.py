"""The trapezoid against the official programs' figures (../shared/truth), a naive second reading, and by hand."""

import hashlib
import json

import numpy as np
import pytest

from competition.errors import Top7Error
from competition.metrics import trapezoid_precision, trapezoid_precisions
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def truth():
    folder = ROOT.parent / "shared" / "truth"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: this test needs what the official programs give")
    return folder


def listed(names, seed, favoured=()):
    """Rows of `names` in the order that expected.json defines."""

    def key(row):
        digest = hashlib.sha256(f"{seed}:{names[row]}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 * (0.1 if row in favoured else 1.0)

    return np.array(sorted(range(len(names)), key=key))


def official(ranked, positives, junk):
    """Oxford's compute_ap, image by image."""
    old_recall, old_precision, total, seen, place = 0.0, 1.0, 0.0, 0, 0
    for row in ranked:
        if row in junk:
            continue
        seen += row in positives
        recall, precision = seen / len(positives), seen / (place + 1)
        total += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision, place = recall, precision, place + 1
    return total


def test_it_is_the_official_loop_on_random_lists():
    generator = np.random.default_rng(0)
    for _ in range(200):
        ranked = generator.permutation(30)[: generator.integers(1, 31)]
        rows = generator.permutation(30)
        m, n_junk = generator.integers(1, 8), generator.integers(0, 8)
        positives, junk = set(rows[:m].tolist()), set(rows[m : m + n_junk].tolist())
        assert trapezoid_precision(ranked, positives, junk) == pytest.approx(
            official(ranked.tolist(), positives, junk), abs=1e-12
        )


def test_by_hand():
    assert trapezoid_precision([3, 1, 2], {3}) == 1.0
    assert trapezoid_precision([1, 3], {3}) == 0.25  # (0/1 + 1/2) / 2
    assert trapezoid_precision([1, 3], {3}, {1}) == 1.0
    assert trapezoid_precision([3, 1], {3, 9}) == 0.5  # 9 is nowhere
    with pytest.raises(Top7Error, match="without positives"):
        trapezoid_precision([1], set())
    assert np.isnan(trapezoid_precisions([[1]], [[]], [[]])).all()


def test_oxford_query_by_query(truth):
    expected = json.loads((truth / "expected.json").read_text())["oxford5k"]
    gnd = json.loads((truth / "oxford5k" / "gnd_oxford5k.json").read_text())
    names = gnd["imlist"]
    row_of = {name: row for row, name in enumerate(names)}
    for how in ("plain", "favoured"):
        for query, value in expected[how].items():
            lists = {
                kind: {
                    row_of[line.strip()]
                    for line in (truth / "oxford5k" / f"{query}_{kind}.txt").read_text().splitlines()
                    if line.strip()
                }
                for kind in ("good", "ok", "junk")
            }
            positives = lists["good"] | lists["ok"]
            ranked = listed(names, query, positives if how == "favoured" else ())
            assert trapezoid_precision(ranked, positives, lists["junk"]) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_revisited_query_by_query(truth, name):
    expected = json.loads((truth / "expected.json").read_text())[name]
    gnd = json.loads((truth / "revisited" / f"gnd_{name}.json").read_text())
    kinds = {
        "easy": (("easy",), ("junk", "hard")),
        "medium": (("easy", "hard"), ("junk",)),
        "hard": (("hard",), ("junk", "easy")),
    }
    for how in ("plain", "favoured"):
        orders = []
        for query, entry in zip(gnd["qimlist"], gnd["gnd"]):
            every = {*entry["easy"], *entry["hard"]}
            orders.append(listed(gnd["imlist"], query, every if how == "favoured" else ()))
        for level, (good, bad) in kinds.items():
            values = []
            for ranked, entry in zip(orders, gnd["gnd"]):
                positives = {row for kind in good for row in entry[kind]}
                junk = {row for kind in bad for row in entry[kind]}
                values.append(trapezoid_precision(ranked, positives, junk) if positives else np.nan)
            wanted = [np.nan if value is None else value for value in expected[how][level]["AP"]]
            np.testing.assert_allclose(values, wanted, atol=1e-12)
            assert np.nanmean(values) == pytest.approx(expected[how][level]["mAP"], abs=1e-12)


def test_the_holidays_result_file(truth):
    names = (truth / "holidays" / "images.dat").read_text().split()
    values = []
    for line in (truth / "holidays" / "example_result.txt").read_text().splitlines():
        query, *rest = line.split()
        ranked = [int(name.split(".")[0]) for _, name in sorted(zip(map(int, rest[::2]), rest[1::2]))]
        number = int(query.split(".")[0])
        group = {int(name.split(".")[0]) for name in names} - {number}
        positives = {other for other in group if other // 100 == number // 100}
        values.append(trapezoid_precision(ranked, positives, {number}))
    assert len(values) == 500
    assert np.mean(values) == pytest.approx(0.68923, abs=5e-6)
