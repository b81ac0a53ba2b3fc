"""One progress line a stage, whole at 80 columns; whole lines where stderr is no terminal."""

from __future__ import annotations

import io
import os
import re

import pytest

from competition.printable import PrintableStream
from competition.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((80, 24)))
    return Terminal()


def test_a_study_that_makes_many_files_shows_one_line(terminal):
    stream = PrintableStream(terminal)
    with Progress(total=3, desc="tune", unit="trial", file=stream, mininterval=0) as outer:
        for _ in range(3):
            with Progress(total=9, desc="augmented", unit="row", file=stream, mininterval=0) as inner:
                for _ in range(9):
                    inner.update()
            outer.update()
    with Progress(total=1, desc="next stage", file=stream) as after:
        after.update()
    shown = terminal.getvalue()
    assert "tune: 100%" in shown and "3/3" in shown and "augmented" not in shown and "next stage" in shown
    assert "\\u001b" not in shown and "\x1b" not in shown  # no stage moves the cursor


def test_an_exception_ends_a_stage(terminal):
    with pytest.raises(ValueError), Progress(total=3, desc="first", file=terminal):
        raise ValueError
    Progress(total=1, desc="second", file=terminal).close()
    assert "second" in terminal.getvalue()


def test_a_long_name_and_remark_give_way_to_the_figures(terminal):
    name = "vit_base_patch16_siglip_224.webli simulated"
    with Progress(total=520_000, desc=name, unit="img", file=terminal, mininterval=0) as bar:
        bar.set_postfix_str("limit: network, 5 % of the time waiting for images", refresh=False)
        bar.update(123_456)
    lines = [line for line in terminal.getvalue().split("\r") if line.strip()]
    assert all(len(line.rstrip("\n")) <= 80 for line in lines)
    assert "123456/520000" in lines[-1] and "img/s" in lines[-1] and lines[-1].rstrip().endswith("]")
    assert lines[-1].startswith("vit_") and "simulated:" in lines[-1] and "…" in lines[-1]


def test_a_file_gets_whole_lines_and_short_stages_none():
    stream = io.StringIO()
    with Progress(total=2, desc="short", file=stream) as bar:
        bar.update(2)
    assert stream.getvalue() == ""
    with Progress(total=2, desc="long", file=stream, delay=0, mininterval=0) as bar:
        bar.update()
        bar.update()
    text = stream.getvalue()
    assert "\r" not in text and "\n\n" not in text and text.endswith("\n")
    assert text.splitlines()[-1].startswith("long: 100%")


def test_a_file_gets_the_end_of_a_stage_once():
    stream = io.StringIO()
    with Progress(total=2, desc="gallery", file=stream, delay=0) as bar:
        bar.update(2)
    assert [line.split("|")[0] for line in stream.getvalue().splitlines()] == [
        "gallery:   0%",
        "gallery: 100%",
    ]
    assert bar.maxinterval == bar.mininterval  # tqdm's monitor adds no lines between


def test_a_remark_that_changes_often_adds_no_lines_to_a_file():
    stream = io.StringIO()
    with Progress(total=200, desc="certify", file=stream, delay=0) as bar:
        for number in range(200):
            bar.n = number
            bar.set_postfix_str(f"best {number}")
        bar.n = 200
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and lines[-1].startswith("certify: 100%")


def test_a_stage_that_is_not_shown_takes_remarks_and_says_nothing():
    stream = io.StringIO()
    with Progress(total=2, desc="certify", file=stream, delay=0, shown=False) as bar:
        bar.set_postfix_str("best 1")
        bar.update(2)
    assert stream.getvalue() == ""


def test_the_rate_in_a_file_is_that_of_the_work(monkeypatch):
    stream, now = io.StringIO(), 0.0
    with Progress(total=20_000, desc="gallery", unit="img", file=stream) as bar:
        start = bar.start_t
        monkeypatch.setattr(bar, "_time", lambda: start + now)
        for second in range(1, 1201):
            now = float(second)
            if second // 61 % 2:
                bar.refresh()  # as tqdm's monitor does before an update that is late
            bar.update(10)
    rates = [float(rate) for rate in re.findall(r"([\d.]+)img/s", stream.getvalue())]
    assert len(rates) >= 15 and rates[1:] == pytest.approx([10] * len(rates[1:]), rel=0.05)
