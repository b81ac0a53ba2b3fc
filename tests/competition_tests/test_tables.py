"""Tables: aligned, as wide as they are in a file, no wider than a terminal; nothing is cut."""

from __future__ import annotations

import io
import sys

import pytest

from competition.tables import table

LINES = [
    ["recipe", "answers to", "public", "cross-validated", "official", "date"],
    ["a", "validation", "0.5", "0.25", "-", "2026-11-25"],
    ["a name that has no room in forty columns", "test", "0.5", "0.25", "-", "2026-11-25"],
]


@pytest.fixture
def columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def wide(count):
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setenv("COLUMNS", str(count))

    return wide


def test_a_file_gets_every_column_on_one_line():
    lines = table(LINES, left=(0, 1), spare=(5, 4)).splitlines()
    assert len(lines) == 3 and len({line.index("2026") for line in lines[1:]}) == 1
    assert all(len(line) == len(lines[0]) or line is lines[0] for line in lines[1:])


@pytest.mark.parametrize("count", [60, 80, 100])
def test_a_terminal_gets_no_wider_table_and_every_name_whole(columns, count):
    columns(count)
    text = table(LINES, left=(0, 1), spare=(5, 4))
    rows = [line for line in text.splitlines() if not line.startswith("(left out")]
    assert max(map(len, rows)) <= count
    assert all(word in text for word in LINES[2][0].split())
    assert ("left out" in text) == (count == 60)
    if count == 60:
        assert "official" in text.splitlines()[-1]  # empty: it goes first


def test_a_name_that_would_steer_the_terminal_is_written_out():
    assert "\\u001b[31m" in table([["name"], ["\x1b[31mred"]])
