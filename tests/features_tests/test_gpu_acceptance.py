"""The acceptance for a card, run on the CPU in small: what it says of a card must hold here where it can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from features.pooling import POOLING
from tests.benchmarks.gpu import agreement, sections
from tests.benchmarks.gpu.__main__ import main
from tests.benchmarks.gpu.rows import MET, MISSED, NOTED, SKIPPED, Row, Task, judged, rate
from tests.benchmarks.gpu.sections import SECTIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", "cpu", "--small", "--out", str(out)]
    memory = Path("/dev/shm")  # the disk is not what is tried
    environment = os.environ | ({"TMPDIR": str(memory)} if os.access(memory, os.W_OK) else {})
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    *_, printed = ran.stdout.splitlines()
    assert json.loads(printed) == json.loads(out.read_text())
    return json.loads(printed)


def of(result: dict, section: str) -> list[dict]:
    return [row for row in result["rows"] if row["section"] == section]


@pytest.mark.slow
def test_every_section_is_there_and_nothing_is_missed(result):
    assert result["missed"] == 0 and result["device"] == "CPU"
    assert list(dict.fromkeys(row["section"] for row in result["rows"])) == list(SECTIONS)
    for row in result["rows"]:
        assert row["verdict"] in (MET, SKIPPED, NOTED), row
        assert row["reason"] if row["verdict"] == SKIPPED else row["figure"], row
        assert bool(row["goal"]) or row["verdict"] != MET, row


@pytest.mark.slow
def test_every_pooling_precision_and_embedding_is_compared(result):
    found = of(result, "agreement")
    for precision in ("float32", "float16", "bfloat16"):
        own = [row for row in found if f", {precision}:" in row["what"]]
        compared = {name for row in own for name in row["values"]["each"]}
        assert {name.split("/")[1] for name in compared if "/" in name} == {*POOLING, "gem-p4.6"}
        assert {"cls", "head", "parts 8", "parts 16"} <= compared
    half = [row for row in found if " float16:" in row["what"]]
    assert any(row["values"]["largest_difference"] > 1e-6 for row in half), "half precision was not run"


@pytest.mark.slow
def test_the_fake_of_a_full_device_halves_batches(result):
    tried = of(result, "halving")[0]["values"]["tried"]
    assert "fake" in of(result, "halving")[0]["what"]
    failed = [size for size, fits in tried if not fits]
    assert failed[0] == 16 and set(failed) == {16, 8}
    assert tried[-1] == [4, True]
    assert max(size for size, fits in tried if fits) == 4


@pytest.mark.slow
def test_the_kill_met_it_half_way(result):
    killed, same = of(result, "killing")
    assert 0 < killed["values"]["windows_kept"] < 9 and 0 < killed["values"]["images_run_again"] < 72
    assert same["values"]["different"] == []


def hangs(task: Task):
    yield Row("first", "1")
    time.sleep(60)


def dies(task: Task):
    yield Row("first", "1")
    sys.exit(3)


def fails(task: Task):
    yield Row("first", "1")
    raise ValueError("no such thing")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> None:
    """The process that sections are forked from, which takes seconds to import everything, is there already."""
    list(
        sections.section(
            "speed", Task("cpu", True, tmp_path_factory.mktemp("gpu") / "work", time.monotonic() + 300), fails
        )
    )


@pytest.mark.parametrize(
    "rows, seconds, verdict, reason",
    [
        (hangs, 8, SKIPPED, "ran out"),
        (dies, 60, MISSED, "ended with 3"),
        (fails, 60, MISSED, "ValueError: no such"),
    ],
)
def test_a_section_that_hangs_or_dies_keeps_its_rows(server, rows, seconds, verdict, reason, tmp_path):
    task = Task("cpu", True, tmp_path / "work", time.monotonic() + seconds)
    first, last = sections.section("speed", task, rows)
    assert first.figure == "1" and last.verdict == verdict and reason in last.reason


def test_a_section_without_time_is_skipped_with_a_word(tmp_path):
    (row,) = sections.section("speed", Task("cpu", True, tmp_path / "speed", time.monotonic() + 1))
    assert row.verdict == SKIPPED and "clock ran out" in row.reason


def test_verdicts():
    assert judged("a", "1", "<= 2", True).verdict == MET and judged("a", "3", "<= 2", False).verdict == MISSED
    cpu, card = (Task(device, True, Path(), 0.0) for device in ("cpu", "cuda"))
    assert (
        rate(cpu, "a", "3", "<= 2", False).verdict == SKIPPED
        and rate(card, "a", "3", "<= 2", False).verdict == MISSED
    )


def test_a_difference_beyond_its_goal_is_missed():
    rows = np.eye(12, dtype=np.float32) * 0.8 + 0.1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    moved = rows.copy()
    moved[3] = rows[4]
    (same,) = agreement._compared("a", "float32", {"4/spoc": rows}, {"4/spoc": rows})
    (other,) = agreement._compared("a", "bfloat16", {"4/spoc": rows}, {"4/spoc": moved})
    assert same.verdict == MET and other.verdict == MISSED
    assert other.values["least_cosine"] == pytest.approx(float(rows[3] @ rows[4]), abs=1e-6)


def test_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "--small" in capsys.readouterr().out


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a CUDA device")
def test_no_card_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "torch finds no CUDA device" in capsys.readouterr().err.splitlines()[-1]
