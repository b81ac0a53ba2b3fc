"""Finished work that nobody may write to still answers: a read-only work folder, and a bundle of another device's dumps."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from submissions.__main__ import main

ROOT = Path(__file__).resolve().parents[2]

EACH = """
import json, sys
from submissions.__main__ import main
for arguments in json.loads(sys.argv[1]):
    print("ended", arguments[0], main(arguments), file=sys.stderr, flush=True)
"""


def no_overriding() -> None:
    """Modes of files hold for root, too, in the program that starts next (Linux: CAP_DAC_OVERRIDE is dropped)."""
    if os.geteuid() == 0:
        assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def test_a_read_only_work_folder_and_bundle_serve_every_command_that_needs_nothing_new(
    tiny_competition, tmp_path
):
    shutil.copytree(tiny_competition.parent, tmp_path / "competition")
    config, work, bundle = (
        tmp_path / "competition" / tiny_competition.name,
        tmp_path / "work",
        tmp_path / "bundle",
    )
    common = ["--config", str(config), "--work", str(work)]
    assert main(["extract", *common]) == 0
    assert main(["tune", *common, "--trials", "5", "--folds", "0"]) == 0
    settings = next((work / "dumps" / "settings").iterdir())
    settings.write_text(json.dumps({"cuda": json.loads(settings.read_text())["cpu"] | {"device": "cuda"}}))
    before = settings.read_bytes()
    assert main(["bundle", *common, "--out", str(bundle)]) == 0
    assert main(["submit", *common, "--split", "validation", "--out", str(tmp_path / "given.csv")]) == 0
    assert main(["predict", str(tmp_path / "competition" / "test"), str(tmp_path / "a.csv"), *common]) == 0
    assert settings.read_bytes() == before, "describing images writes no settings"
    files = [path for path in tmp_path.rglob("*") if work in path.parents or bundle in path.parents]
    for path in [*files, work, bundle]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    out = tmp_path / "out"
    out.mkdir()
    queries = str(tmp_path / "competition" / "test")
    commands = [
        ["predict", queries, str(out / "b.csv"), "--device", "cpu", *common],
        ["predict", queries, str(out / "c.csv"), "--device", "cpu", "--bundle", str(bundle)],
        ["submit", "--split", "validation", "--out", str(out / "given.csv"), *common],
        ["score", str(tmp_path / "given.csv"), *common],
        ["verify", *common],
        ["compare", "best", "pwa_qe", *common],
        ["extract", "--device", "cpu", *common],
    ]
    finished = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(commands)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        preexec_fn=no_overriding,
    )
    ended = [line.split()[1:] for line in finished.stderr.splitlines() if line.startswith("ended ")]
    assert ended == [[arguments[0], "0"] for arguments in commands], finished.stderr
    assert (out / "b.csv").read_bytes() == (out / "c.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert (out / "given.csv").read_bytes() == (tmp_path / "given.csv").read_bytes()
    assert "nothing is recorded on the leaderboard" in finished.stderr
    for path in [*files, work, bundle]:
        path.chmod(0o755)
