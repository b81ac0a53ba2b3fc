"""The leaderboard as text: columns, remarks, and published figures only where asked for."""

import pytest

from competition.leaderboard import Row
from competition.leaderboard_text import PUBLISHED, render
from competition.tables import table


def row(name, score, **more):
    return Row(name, name, "test", "validation", 7, {"min(m,k)": score, "hits": score + 0.1}, **more)


def test_table():
    assert table([["a", "bcd"], ["long", "e"]], left=(0,)) == "a     bcd\nlong    e"


def test_columns():
    text = render(
        [
            row(
                *("a.csv", 0.5),
                **{"public": 0.6, "private": 0.25, "cross_validated": 0.375, "moved": -1},
                recorded="2026-11-25T01:02:03+00:00",
                details={"recipe": "top7"},
            ),
            Row("b.csv", "b", official=0.125),
        ]
    )
    lines = text.splitlines()
    assert lines[0].split("  ")[1:] and "MAP@7 min(m,k)" in lines[0] and "MAP@7 hits" in lines[0]
    assert lines[1].split() == [
        "1",
        "a.csv",
        "test",
        "validation",
        "0.5000",
        "0.6000",
        "0.6000",
        "0.2500",
        "0.3750",
        "-1",
        "-",
        "top7",
        "2026-11-25",
    ]
    assert lines[2].split() == ["2", "b.csv", "-", "-", "-", "-", "-", "-", "-", "-", "0.1250", "-", "-"]
    assert "moved: places from one ranking to the other, 1.00 on average over 1 recipe" in text
    assert "Published" not in text and text.endswith("\n")


@pytest.mark.parametrize(
    "locals_, officials, said",
    [
        ([0.1, 0.2, 0.3], [0.3, 0.4, 0.5], "+1.000 over 3 submissions with both scores."),
        ([0.1, 0.2], [0.3, 0.4], "needs 3 submissions with both scores, there are 2."),
        ([0.1, 0.2, 0.3], [0.4, 0.4, 0.4], "not defined, since one of the two scores is the same for all"),
    ],
)
def test_correlation(locals_, officials, said):
    rows = [
        row(f"{i}", local, official=official)
        for i, (local, official) in enumerate(zip(locals_, officials, strict=True))
    ]
    assert f"Spearman rank correlation of local (min(m,k)) and official (as judged) scores: {said}" in render(
        rows
    )
    assert "Spearman" not in render([row("a", 0.1)])


def test_published_block_only_where_configured():
    assert "Published" not in render([]) and "0.4086" not in render([])
    assert render([]).startswith("The leaderboard is empty: ./run.sh score FILE puts a submission on it.")
    text = render([row("a", 0.1)], published="perfect500k")
    block = text.split("\n\n")[1]
    assert block.startswith("Published scores, perfect500k (other queries than those above: not comparable; ")
    for figure in (0.578, 0.291, 0.271, 0.252, 0.229, 0.4086, 0.4072, 0.208, 0.267, 0.419, 0.388, 0.439):
        assert f" {figure}  " in block
    assert len(block.splitlines()) == 2 + len(PUBLISHED["perfect500k"])
