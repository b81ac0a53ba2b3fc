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
from features.ranked_lists import ranked_lists
from features.recipes.recipe import Recipe
from tuning import prepared
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


def work_in(tmp_path):
    """A work folder and what its steps keep."""
    (tmp_path / "work" / "ranking").mkdir(parents=True)
    return tmp_path / "work", tmp_path / "work" / "ranking"


def test_least_recently_used_goes_first_and_what_is_open_stays(tmp_path):
    work, folder = work_in(tmp_path)
    for name in ("first", "second", "third"):
        keep(folder, name)
    keep(folder, "first")  # used again
    with budget.budget(work, 3 * 8600):
        keep(folder, "fourth")
        assert labels(folder) == {"first", "third", "fourth"}
        third = keep(folder, "third")
        keep(folder, "fifth", rows=2000)
        assert labels(folder) == {"third", "fifth"}
        assert keep(folder, "second")[7] == 7  # made again
    assert third[999] == 999
    keep(folder, "sixth")  # no budget outside
    assert {"second", "third", "sixth"} <= labels(folder)


def test_looking_for_room_uses_nothing(tmp_path):
    work, folder = work_in(tmp_path)
    for name in ("c", "a", "b"):
        keep(folder, name)
    for sidecar in folder.glob(
        "*.json"
    ):  # unused for days: a file system's own clock would note the next read
        stamp = sidecar.stat()
        os.utime(sidecar, ns=(stamp.st_atime_ns - 3 * 86400 * 10**9, stamp.st_mtime_ns))
    keep(folder, "new")
    before = {path: path.stat().st_atime_ns for path in folder.glob("*.json")}
    with budget.budget(work, 10**9):
        budget.make_room(1)
    assert before == {path: path.stat().st_atime_ns for path in folder.glob("*.json")}


def test_a_study_gives_the_same_figures_within_a_small_budget(tiny_competition, tmp_path):
    steps = '[{ step = "whiten", dim = [2, 3, 4] }, { step = "augment", neighbours = [1, 2] }]'
    path = tiny_competition.with_name("budget.toml")
    path.write_text(tiny_competition.read_text().replace("trials = 12", f"steps = {steps}\ncache_gib = 1.0"))
    configuration = load_configuration(path, work=tmp_path / "work")
    extract(configuration, device="cpu", progress=False)
    found, sizes = [], []
    for cache_gib in (1.0, 1e-5):
        tuning = replace(configuration.tuning, cache_gib=cache_gib)
        landscape = Landscape(replace(configuration, tuning=tuning))
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


def test_what_a_study_leaves_fits_the_budget(tiny_competition, tmp_path, monkeypatch):
    """Files that are open cannot go: no more sets of dumps stay open than fit."""
    monkeypatch.setattr(prepared, "HELD_BYTES", 0)
    path = tiny_competition.with_name("within.toml")
    steps = '[{ step = "whiten", dim = [2, 3, 4] }, { step = "augment", neighbours = [1, 2] }]'
    path.write_text(tiny_competition.read_text().replace("trials = 12", f"steps = {steps}"))
    configuration = load_configuration(path, work=tmp_path / "work")
    extract(configuration, device="cpu", progress=False)
    most = {}
    for cache_gib in (1.0, 1e-5):
        shutil.rmtree(tmp_path / "work" / "ranking", ignore_errors=True)
        tuning = replace(configuration.tuning, cache_gib=cache_gib)
        landscape = Landscape(replace(configuration, tuning=tuning))
        sizes = []
        for dim, neighbours in product((2, 3, 4), (1, 2)):
            landscape.prepared(
                {**landscape.space.default, "whiten.dim": dim, "augment.neighbours": neighbours}
            )
            sizes.append(landscape.kept_files()[1])
        most[cache_gib] = max(sizes)
    sidecar = 400  # bytes of the last one, which is sealed after room was made
    assert most[1e-5] <= 1e-5 * 2**30 + sidecar < most[1.0]


def test_recipes_share_the_budget_of_a_work_folder(tiny_competition, tmp_path):
    path = tiny_competition.with_name("shared-budget.toml")
    path.write_text(tiny_competition.read_text())
    configuration = load_configuration(path, work=tmp_path / "work")
    extract(configuration, device="cpu", progress=False)
    tuning = replace(configuration.tuning, cache_gib=1.0)
    roomy, tight = (replace(configuration, tuning=replace(tuning, cache_gib=gib)) for gib in (1.0, 1e-6))
    component = Landscape(configuration).space.components_of(Landscape(configuration).space.default)[:1]

    def lists(within, dim):
        recipe = Recipe("whitened", component, (1.0,), {}, {}, {}, ({"step": "whiten", "dim": dim},))
        return ranked_lists(within, recipe, "validation", None, None)

    kept = tmp_path / "work" / "ranking"
    first = [lists(roomy, dim) for dim in (2, 3)]
    both = {path.name for path in kept.glob("*.json")}
    again = [lists(tight, dim) for dim in (4, 3, 2)]
    left = {path.name for path in kept.glob("*.json")}
    assert not both <= left
    for one, other in zip(first, again[::-1]):
        assert (one.ranks == other.ranks).all() and (one.scores == other.scores).all()
