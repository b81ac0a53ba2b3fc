"""Galleries that grew, shrank or changed, damaged dumps, duplicates, test-time views, memory that runs
out.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from competition.errors import ConfigurationError
from competition.images import list_images
from features.dumps import beside, open_dump
from features.extraction import (
    backbone_pass,
    describe,
    exact_duplicates,
    near_duplicates,
    plan,
    settings,
    verify,
)
from features.extraction.engine import Engine
from tests.features_tests.conftest import BACKBONE
from tests.features_tests.extraction_competition import Stops, counted, stopping_after


def test_a_gallery_that_grew_is_extended(tiny, capsys):
    configuration = tiny.configured()
    tiny.run(configuration)
    tiny.draw(["g001", "g015", "g099"])
    assert tiny.run(configuration).images == 3
    assert "3 new images" in capsys.readouterr().err
    whole = tiny.configured("whole")
    assert tiny.run(whole).images == 24
    assert tiny.contents(configuration) == tiny.contents(whole)
    assert tiny.run(configuration).images == 0


def test_images_that_are_gone_are_named(tiny, capsys):
    configuration = tiny.configured()
    tiny.run(configuration)
    tiny.image("g004").unlink()
    before = tiny.contents(configuration)
    with pytest.raises(
        ConfigurationError, match=r"1 images \(such as 'g004'\) are gone, .* 2 finished dumps"
    ):
        tiny.run(configuration)
    assert tiny.contents(configuration) == before, "nothing is dropped without being asked"
    assert tiny.run(configuration, drop_gone=True).images == 0
    assert "1 images (such as 'g004') are gone" in capsys.readouterr().err
    whole = tiny.configured("whole")
    tiny.run(whole)
    assert tiny.contents(configuration) == tiny.contents(whole)


def test_growth_in_the_middle_of_an_unfinished_run_begins_again_and_says_so(tiny, monkeypatch, capsys):
    configuration = tiny.configured()
    with monkeypatch.context() as patched, pytest.raises(Stops):
        patched.setattr(backbone_pass, "StartedWindow", stopping_after(2))
        tiny.run(configuration)
    tiny.draw(["g001"])
    assert tiny.run(configuration).images == 21 + 1
    assert "an unfinished run was of other images" in capsys.readouterr().err
    whole = tiny.configured("whole")
    tiny.run(whole)
    assert tiny.contents(configuration) == tiny.contents(whole)
    assert not [path for path in (tiny.folder / "work" / "dumps" / "gallery").glob(".*") if path.is_file()]


def test_an_unfinished_run_of_fewer_dumps_goes_on_for_these(tiny, monkeypatch):
    """A pooling that is taken out of the configuration in the middle of a run costs nothing of the others."""
    configuration = tiny.configured()
    with monkeypatch.context() as patched, pytest.raises(Stops):
        patched.setattr(backbone_pass, "StartedWindow", stopping_after(2))
        tiny.run(configuration)
    fewer = tiny.configured(backbone=BACKBONE.replace('["spoc", "mac"]', '["mac"]'))
    assert tiny.run(fewer).images == 21 - 16
    whole = tiny.configured("whole", BACKBONE.replace('["spoc", "mac"]', '["mac"]'))
    tiny.run(whole)
    found, expected = tiny.contents(fewer), tiny.contents(whole)
    assert {name: found[name] for name in expected if "mac" in name and name.endswith(".npy")} == {
        name: data for name, data in expected.items() if "mac" in name and name.endswith(".npy")
    }
    assert not list((tiny.folder / "work").rglob("*.partial")) + list(
        (tiny.folder / "work").rglob("*.journal")
    )


def test_a_changed_file_is_noticed_and_its_row_made_anew(tiny, capsys):
    configuration = tiny.configured()
    tiny.run(configuration)
    os.utime(tiny.image("g002"), ns=(1, 1))
    assert tiny.run(configuration).images == 0, "another time alone is no change"
    tiny.draw(["g006"], seed=5)
    assert tiny.run(configuration).images == 1
    assert "1 images (such as 'g006') have other content" in capsys.readouterr().err
    tiny.draw(["g008"], seed=9)
    data = tiny.image("g008").read_bytes()
    shutil.copy(tiny.image("g010"), tiny.image("g008"))
    size, mtime_ns = os.stat(tiny.image("g008")).st_size, os.stat(tiny.image("g008")).st_mtime_ns
    tiny.run(configuration)
    tiny.image("g008").write_bytes(data[:size].ljust(size, b"\0"))
    os.utime(tiny.image("g008"), ns=(mtime_ns, mtime_ns))
    assert tiny.run(configuration).images == 0, "same size and time: not looked at"
    assert tiny.run(configuration, check_content=True).images == 1


def test_verify_names_damaged_rows_and_extract_repairs_them_alone(tiny):
    configuration = tiny.configured()
    report = tiny.run(configuration)
    before = tiny.contents(configuration)
    assert verify(configuration, splits=("gallery",), progress=False).whole
    path = report.paths[1]
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # the last row
    data[128 + 4 * 32 * 9 + 3] ^= 8  # row 9
    path.write_bytes(data)
    found = verify(configuration, splits=("gallery",), progress=False)
    assert found.damaged == {path: ["g018", "g040"]} and not found.missing
    assert plan(configuration, splits=("gallery",), device="cpu").images == 2
    assert tiny.run(configuration).images == 2
    assert verify(configuration, splits=("gallery",), progress=False).whole
    after = tiny.contents(configuration)
    assert all(
        after[name] == data
        for name, data in before.items()
        if name.startswith("test_resnet") and name.endswith(".npy")
    )


@pytest.mark.parametrize("resize", ["squash", "keep"])
def test_a_row_has_the_same_bytes_in_a_first_run_in_a_repair_and_alone(tiny, monkeypatch, resize):
    """Batches of 16 images round otherwise than batches of 2 (oneDNN, maps of 1 x 1)."""
    monkeypatch.setattr(settings, "WINDOW_ROWS", 256)
    monkeypatch.setattr(settings, "BATCH_PIXELS", 32 * 32 * 32)
    text = BACKBONE.replace("layers = [0]", f'resize = "{resize}"\nlayers = [4]')
    configuration = tiny.configured(backbone=text)

    def rows(found) -> dict[str, bytes]:
        names = tiny.contents(found)
        return {n: data for n, data in names.items() if n.startswith("test_resnet") and n.endswith(".npy")}

    path = tiny.run(configuration).paths[0]
    before = rows(configuration)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # the last row
    path.write_bytes(data)
    assert verify(configuration, splits=("gallery",), progress=False).damaged == {path: ["g040"]}
    assert tiny.run(configuration).images == 1
    assert len(before) == 6 and rows(configuration) == before
    alone = tiny.folder / "alone"
    alone.mkdir()
    shutil.copy(tiny.image("g012"), alone)
    found = describe(configuration, list_images(alone), tiny.folder / "out", device="cpu", progress=False)
    dump = open_dump(path)
    row = dump.ids.index("g012")
    assert np.array_equal(open_dump(found.paths[0]).descriptors[0], dump.descriptors[row])
    tiny.draw([f"f{i:03d}" for i in range(13)])  # all rows move
    assert tiny.run(configuration).images == 13
    whole = tiny.configured("whole", text)
    tiny.run(whole)
    assert rows(configuration) == rows(whole)


@pytest.mark.parametrize("suffix", [".npy", ".norms.npy", ".sums.npy"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_cut_off_and_missing_files_are_repaired(tiny, suffix, harm):
    configuration = tiny.configured()
    path = beside(tiny.run(configuration).paths[0], suffix)
    before = tiny.contents(configuration)
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-40])
    assert not verify(configuration, splits=("gallery",), progress=False).whole
    assert tiny.run(configuration).images <= (21 if harm == "gone" and suffix == ".npy" else 1)
    after = tiny.contents(configuration)
    assert all(
        after[name] == data
        for name, data in before.items()
        if name.startswith("test_resnet") and name.endswith(".npy")
    )


@pytest.mark.parametrize("harm", ["cut", "gone", "empty", "longer"])
def test_a_damaged_record_of_the_images_costs_a_pass_and_says_so(tiny, harm, capsys):
    tiny.image("g002").write_bytes(b"")
    configuration = tiny.configured()
    tiny.run(configuration)
    before = tiny.contents(configuration)
    record = next((tiny.folder / "work" / "dumps" / "gallery").glob("*.images.npy"))
    data = record.read_bytes()
    record.write_bytes({"cut": data[:-40], "gone": b"", "empty": b"", "longer": data + b"x"}[harm])
    if harm == "gone":
        record.unlink()
    found = verify(configuration, splits=("gallery",), progress=False)
    assert list(found.damaged) == [record] and len(found.damaged[record]) == 21
    assert tiny.run(configuration).images == 21
    assert f"{record}: the record of the images is missing or cut off" in capsys.readouterr().err
    assert tiny.contents(configuration) == before
    assert verify(configuration, splits=("gallery",), progress=False).whole


def test_exact_duplicates_are_extracted_once_and_listed(tiny, monkeypatch):
    for twin, original in (("g003", "g002"), ("g005", "g002"), ("g077", "g004")):
        shutil.copy(tiny.image(original), tiny.image(twin))
    configuration = tiny.configured()
    run_images = counted(monkeypatch)
    tiny.run(configuration)
    assert sum(run_images) == 21
    dump = open_dump(next(iter(tiny.run(configuration).paths)))
    row = {name: number for number, name in enumerate(dump.ids)}
    for twin, original in (("g003", "g002"), ("g005", "g002"), ("g077", "g004")):
        assert np.array_equal(dump.descriptors[row[twin]], dump.descriptors[row[original]])
        assert exact_duplicates(configuration)[row[twin]] == row[original]
    with open(dump.path.parent / "duplicates.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["id", "duplicate_of"],
            ["g003", "g002"],
            ["g005", "g002"],
            ["g077", "g004"],
        ]
    assert (row["g002"], row["g003"], 1.0) in [
        (a, b, round(s, 5)) for a, b, s in near_duplicates(dump, 0.9999)
    ]
    assert not any(a == b for a, b, _ in near_duplicates(dump, -1.0))


def test_the_list_of_unreadable_images(tiny):
    tiny.image("g002").write_bytes(b"")
    configuration = tiny.configured()
    tiny.run(configuration)
    with open(tiny.folder / "work" / "dumps" / "gallery" / "unreadable.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["id", "file", "reason"],
            ["g002", str(tiny.image("g002")), "empty file (0 bytes)"],
        ]
    tiny.draw(["g002"])
    assert tiny.run(configuration).images == 1
    assert not open_dump(tiny.run(configuration).paths[0]).unreadable.any()


def test_flip_and_scales_average_unit_descriptors(tiny):
    plain = tiny.configured("plain")
    dump = open_dump(tiny.run(plain).paths[0])
    from PIL import Image, ImageOps

    text = '[[backbone]]\nmodel = "test_resnet"\nweights = "random"\nimage_size = 32\nlayers = [0]\npooling = ["spoc"]\n'
    views = open_dump(
        tiny.run(tiny.configured("views", text + "flip = true\nscales = [1.0, 2.0]\n")).paths[0]
    )
    large = open_dump(tiny.run(tiny.configured("large", text.replace("32", "64"))).paths[0])
    for path in (tiny.folder / "gallery").iterdir():
        ImageOps.mirror(Image.open(path)).save(path)
    flipped = open_dump(tiny.run(tiny.configured("flipped", text)).paths[0])
    large_flipped = open_dump(tiny.run(tiny.configured("large_flipped", text.replace("32", "64"))).paths[0])
    mean = sum(
        np.asarray(found.descriptors, dtype=np.float64) for found in (dump, large, flipped, large_flipped)
    )
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.abs(views.descriptors - expected).max() < 2e-3
    assert views.recipe["flip"] is True and views.recipe["scales"] == [1.0, 2.0]


def test_batches_are_halved_when_memory_runs_out(tiny, monkeypatch, capsys):
    whole = tiny.configured("whole")
    tiny.run(whole)
    original = Engine.maps

    def small(self, pixels, **options):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, pixels, **options)

    monkeypatch.setattr(Engine, "maps", small)
    monkeypatch.setattr(
        sys.modules["features.extraction.extract"], "seconds_an_image", lambda *arguments: 0.0
    )
    configuration = tiny.configured()
    report = tiny.run(configuration)
    assert "out of memory: batches of 2 images" in capsys.readouterr().err
    expected = open_dump(tiny.run(whole).paths[0])
    found = open_dump(report.paths[0])
    assert np.abs(found.descriptors - expected.descriptors).max() <= 1e-5, "the tolerance that README states"
    assert [run["batch_rows"] for run in found.sidecar["settings"]] == [2]


def test_settings_of_the_first_run_are_kept(tiny):
    configuration = tiny.configured()
    tiny.run(configuration)
    path = next((tiny.folder / "work" / "dumps" / "settings").iterdir())
    first = json.loads(path.read_text())
    assert first["cpu"]["batch_rows"] == 4 and first["cpu"]["precision"] == "float32"
    threads = first["cpu"]["threads"]
    first["cpu"]["threads"] = threads + 1  # as if copied from another machine
    path.write_text(json.dumps(first))
    tiny.draw(["g001"])
    dump = open_dump(tiny.run(configuration).paths[0])
    runs = [(run["rows"], run["threads"]) for run in dump.sidecar["settings"]]
    assert runs == [([0, 1], threads), ([1, 2], threads + 1), ([2, 22], threads)]


def test_describing_needs_no_gallery(tiny):
    """What predict does in a container: settings from the work folder, images from anywhere."""
    configuration = tiny.configured()
    tiny.run(configuration)
    shutil.rmtree(tiny.folder / "gallery")
    report = describe(
        configuration, list_images(tiny.folder / "val"), tiny.folder / "out", device="cpu", progress=False
    )
    assert len(report.paths) == 2 and open_dump(report.paths[0]).descriptors.shape == (3, 32)


def test_what_a_killed_run_left_half_written_is_removed(tiny):
    configuration = tiny.configured()
    tiny.run(configuration)
    whole, work = tiny.contents(configuration), tiny.folder / "work"
    for folder in (work, work / "dumps" / "gallery", work / "dumps" / "settings"):
        (folder / ".x.json.ab12cd34.writing").write_bytes(b"half")
        os.utime(folder / ".x.json.ab12cd34.writing", (0, 0))
    assert tiny.run(configuration).images == 0
    assert not list(work.rglob("*.writing")) and tiny.contents(configuration) == whole
