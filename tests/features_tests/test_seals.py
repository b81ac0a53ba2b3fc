"""Files kept with their checksums: seals, and the budget that removes what was used least recently."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import product

import numpy as np

from competition.configuration import load_configuration
from features.dumps import budget, seals
from features.dumps.derived import derived
from features.extraction import extract
from tuning.landscape import Landscape


def keep(folder, name, rows=1000):
    return derived(
        folder, name, {"of": name}, rows, {"v": (0, "float64")}, lambda a, b: [np.arange(a, b) * 1.0]
    )["v"]


def labels(folder):
    return {path.name.split("-")[0] for path in folder.glob("*.npy")}


def test_a_seal_tells_any_single_byte_that_differs(tmp_path):
    path, sidecar = tmp_path / "a.bin", tmp_path / "a.json"
    path.write_bytes(bytes(range(40)))
    seals.seal(sidecar, [path], recipe={"checksum": 'a ", "checksum": "0'})
    assert seals.intact(sidecar)["recipe"] and seals.bad_files(sidecar) == []
    for file in (path, sidecar):
        good = file.read_bytes()
        for place in range(len(good)):
            file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert seals.bad_files(sidecar) == [file]
        file.write_bytes(good)


def test_least_recently_used_goes_first_and_what_is_open_stays(tmp_path):
    for name in ("first", "second", "third"):
        keep(tmp_path, name)
    keep(tmp_path, "first")  # used again
    with budget.budget([tmp_path], 3 * 8600):
        keep(tmp_path, "fourth")
        assert labels(tmp_path) == {"first", "third", "fourth"}
        third = keep(tmp_path, "third")
        keep(tmp_path, "fifth", rows=2000)
        assert labels(tmp_path) == {"third", "fifth"}
        assert keep(tmp_path, "second")[7] == 7  # made again
    assert third[999] == 999
    keep(tmp_path, "sixth")  # no budget outside
    assert {"second", "third", "sixth"} <= labels(tmp_path)


def test_looking_for_room_uses_nothing(tmp_path):
    for name in ("c", "a", "b"):
        keep(tmp_path, name)
    for sidecar in tmp_path.glob(
        "*.json"
    ):  # unused for days: a file system's own clock would note the next read
        stamp = sidecar.stat()
        os.utime(sidecar, ns=(stamp.st_atime_ns - 3 * 86400 * 10**9, stamp.st_mtime_ns))
    keep(tmp_path, "new")
    before = {path: path.stat().st_atime_ns for path in tmp_path.glob("*.json")}
    with budget.budget([tmp_path], 10**9):
        budget.make_room(1)
    assert before == {path: path.stat().st_atime_ns for path in tmp_path.glob("*.json")}


def test_a_study_gives_the_same_figures_within_a_small_budget(tiny_competition, tmp_path):
    steps = '[{ step = "whiten", dim = [2, 3, 4] }, { step = "augment", neighbours = [1, 2] }]'
    path = tiny_competition.with_name("budget.toml")
    path.write_text(tiny_competition.read_text().replace("trials = 12", f"steps = {steps}\ncache_gib = 1.0"))
    configuration = load_configuration(path, work=tmp_path / "work")
    extract(configuration, device="cpu", progress=False)
    found, sizes = [], []
    for cache_gib in (1.0, 1e-5):
        tuning = replace(configuration.tuning, cache_gib=cache_gib)
        landscape = Landscape(replace(configuration, tuning=tuning), progress=False)
        if cache_gib < 1:
            shutil.rmtree(tmp_path / "work" / "candidates")
            shutil.rmtree(tmp_path / "work" / "ranking")
        for dim, neighbours in product((2, 3, 4), (1, 2)):
            choice = {**landscape.space.default, "whiten.dim": dim, "augment.neighbours": neighbours}
            combination = landscape.combination(choice)
            found.append(combination.average_precisions(combination.corners.mean(axis=0)).tolist())
        sizes.append(landscape.kept_files())
    assert found[:6] == found[6:]
    assert sizes[1][0] < sizes[0][0] and sizes[1][1] < sizes[0][1]
