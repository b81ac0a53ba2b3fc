"""Extraction over tiny competitions: what is written, resumed, refused and said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from competition.images import list_images
from features.dumps import open_dump
from features.dumps.layout import table_of
from features.extraction import backbone_pass, describe, extracted_images, plan
from features.extraction.engine import Engine
from features.images.decoding import decode
from features.networks.backbones import create_network
from features.pooling import pool_maps
from tests.features_tests.extraction_competition import (
    BACKBONE,
    Stops,
    configured,
    contents,
    draw,
    layer_path,
    parts_path,
    run,
    stopping_after,
)

ROOT = Path(__file__).resolve().parents[2]


def test_dumps_hold_what_timm_and_the_pooling_give(folder):
    configuration = configured(folder)
    report = run(configuration)
    gallery = extracted_images(configuration, "gallery")
    assert len(report.paths) == 8 and report.images == 42
    network = timm.create_model("test_resnet", features_only=True, out_indices=(0, 3)).eval()
    torch.manual_seed(0)
    network.load_state_dict(
        {k: v for k, v in timm.create_model("test_resnet").state_dict().items() if k in network.state_dict()}
    )
    cfg = timm.get_pretrained_cfg("test_resnet")
    for row in (0, 19, 36):
        image = Image.open(gallery.paths[row]).resize((32, 32), Image.Resampling.BILINEAR)
        values = (
            torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
            - torch.tensor(cfg.mean).view(3, 1, 1)
        ) / torch.tensor(cfg.std).view(3, 1, 1)
        with torch.inference_mode():
            for layer, maps in zip((0, 3), network(values[None])):
                for pooling in ("spoc", "mac"):
                    dump = open_dump(
                        layer_path(configuration, "gallery", layer, pooling),
                        ids=gallery.ids,
                    )
                    expected = pool_maps(maps, [pooling])[pooling][0]
                    assert np.allclose(dump.norms[row], expected.norm(), rtol=1e-4)
                    assert np.allclose(dump.descriptors[row], expected / expected.norm(), atol=1e-5)
    plain = np.load(report.paths[0], mmap_mode="r")
    assert plain.dtype == np.float32 and np.allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-6)


def test_the_sidecar_says_what_interface_promises(folder):
    configuration = configured(folder)
    path = run(configuration).paths[0]
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["shape"] == [37, 32] and sidecar["dtype"] == "float32" and sidecar["ids"][0] == "g000"
    recipe = sidecar["recipe"]
    assert recipe["model"] == "test_resnet" and len(recipe["weights"]) == 64 and recipe["layer"] == 0
    assert recipe["pooling"] == "spoc" and recipe["resize"] == "squash" and recipe["image_size"] == 32
    assert sidecar["settings"][0]["precision"] == "float32" and sidecar["unreadable"] == []
    np.testing.assert_allclose(sidecar["column_sum"], np.load(path).astype(np.float64).sum(axis=0), rtol=1e-6)


def test_finished_dumps_are_not_computed_again(folder):
    configuration = configured(folder)
    run(configuration)
    before = {name: os.stat(folder / "work" / "dumps" / name).st_mtime_ns for name in contents(configuration)}
    assert run(configuration).images == 0
    assert {name: os.stat(folder / "work" / "dumps" / name).st_mtime_ns for name in before} == before


@pytest.mark.parametrize(
    "change",
    [
        ("image_size = 32", "image_size = 40"),
        ('model = "test_resnet"', 'model = "resnet10t"'),
        ("layers = [0, 3]", "mean = [0.1, 0.2, 0.3]\nlayers = [0, 3]"),
        ("layers = [0, 3]", 'resize = "pad"\nlayers = [0, 3]'),
    ],
)
def test_a_changed_recipe_never_reuses_a_dump(folder, change):
    first = configured(folder)
    paths = set(run(first).paths)
    second = configured(folder, BACKBONE.replace(*change))
    report = run(second)
    assert report.images == 42 and not paths & set(report.paths)


def test_another_weights_file_is_another_recipe(folder):
    from safetensors.torch import save_file

    for seed in (1, 2):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), folder / "w.safetensors")
        configuration = configured(folder, BACKBONE.replace('"random"', '"w.safetensors"'))
        assert run(configuration).images == 42


def test_a_new_pooling_computes_only_itself(folder):
    run(configured(folder))
    configuration = configured(folder, BACKBONE.replace('"mac"]', '"mac", "gem"]'))
    assert [len(planned.targets) for planned in plan(configuration, device="cpu").passes] == [2, 2]
    whole = configured(folder, BACKBONE.replace('"mac"]', '"mac", "gem"]'), work="work2")
    run(configuration)
    run(whole)
    ours, theirs = contents(configuration, (".npy",)), contents(whole, (".npy",))
    names = [name for name in theirs if "images" not in name]
    assert all(ours[name] == theirs[name] for name in names) and len(names) == 3 * 12


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bytes(folder, monkeypatch, after):
    undisturbed = configured(folder, work="undisturbed")
    run(undisturbed)
    configuration = configured(folder)
    monkeypatch.setattr(backbone_pass, "COMMIT_EVERY_S", 0.0)
    with monkeypatch.context() as patched, pytest.raises(Stops):
        patched.setattr(backbone_pass, "StartedWindow", stopping_after(after))
        run(configuration)
    assert run(configuration).images == 42 - min(37, 8 * after)
    assert contents(configuration) == contents(undisturbed)


KILLED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from competition.configuration import load_configuration
from features.extraction import backbone_pass, extract, settings
settings.WINDOW_ROWS, settings.BATCH_PIXELS, backbone_pass.COMMIT_EVERY_S = 8, 4 * 32 * 32, 0.0
class Slow(backbone_pass.StartedWindow):
    def finish(self):
        found = super().finish()
        print("window", flush=True)
        sys.stdin.readline()
        return found
backbone_pass.StartedWindow = Slow
extract(load_configuration({config!r}, work={work!r}), device="cpu", progress=False)
"""


def done_windows(folder: Path) -> int:
    """What the journals under work/ say."""
    return sum(path.read_bytes().count(b'{"window":') for path in (folder / "work").rglob("*.journal"))


def test_a_killed_process_loses_only_what_was_in_flight(folder):
    undisturbed = configured(folder, work="undisturbed")
    run(undisturbed)
    configuration = configured(folder)
    code = KILLED.format(root=str(ROOT), config=str(folder / "config.toml"), work=str(folder / "work"))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(4):
        assert process.stdout.readline() == "window\n"
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.stdout.readline() == "window\n"
    deadline = time.monotonic() + 20
    while done_windows(folder) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= done_windows(folder) <= 4
    done = done_windows(folder)
    assert run(configuration).images == 42 - 8 * done
    assert contents(configuration) == contents(undisturbed)


def test_described_images_have_the_bytes_that_extract_gives(folder):
    configuration = configured(folder)
    run(configuration)
    (folder / "queries").mkdir()
    for number in (30, 7, 19):
        (folder / "queries" / f"g{number:03d}.jpg").write_bytes(
            (folder / "gallery" / f"g{number:03d}.jpg").read_bytes()
        )
    queries = list_images(folder / "queries")
    report = describe(configuration, queries, folder / "described", device="cpu", progress=False)
    assert len(report.paths) == 4
    for layer in (0, 3):
        for pooling in ("spoc", "mac"):
            ours = open_dump(
                layer_path(configuration, "queries", layer, pooling, folder / "described"),
                ids=queries.ids,
            )
            theirs = open_dump(layer_path(configuration, "gallery", layer, pooling))
            assert np.array_equal(ours.descriptors, theirs.descriptors[[7, 19, 30]])


@pytest.mark.parametrize("resize", ["pad", "keep"])
def test_other_ways_of_resizing(folder, resize):
    draw(folder / "gallery", [f"w{i}" for i in range(6)], size=(30, 40))
    draw(folder / "gallery", [f"x{i}" for i in range(3)], size=(20, 20))
    configuration = configured(folder, BACKBONE.replace("layers", f'resize = "{resize}"\nlayers'))
    report = run(configuration)
    assert not report.unreadable
    whole = open_dump(report.paths[0])
    (folder / "one").mkdir()
    (folder / "one" / "x1.jpg").write_bytes((folder / "gallery" / "x1.jpg").read_bytes())
    alone_ = describe(configuration, list_images(folder / "one"), folder / "d", device="cpu", progress=False)
    assert np.array_equal(open_dump(alone_.paths[0]).descriptors[0], whole.descriptors[whole.ids.index("x1")])


def test_limit_keeps_every_labelled_positive_and_warns(folder, capsys):
    configuration = configured(folder)
    report = run(configuration, limit=9)
    said = capsys.readouterr().err
    sample = extracted_images(configuration, "gallery")
    assert len(sample) == 9 and {"g003", "g004", "g030", "g005", "g006", "g007"} <= set(sample.ids)
    assert report.limited == 9 and "optimistic" in said
    assert open_dump(report.paths[0], ids=sample.ids)
    assert run(configuration).limited is None
    assert len(extracted_images(configuration, "gallery")) == 37


PARTS = BACKBONE + "parts = { layer = 3, counts = [4, 8], dims = [3, 6] }\n"


def test_parts_are_learnt_once_and_projected(folder):
    from features.parts.part_model import open_parts

    configuration = configured(folder, PARTS)
    report = run(configuration)
    backbone = configuration.backbones[0]
    assert len(report.paths) == 12
    paths = [parts_path(configuration, "gallery", n) for n in (4, 8)]
    first = [open_dump(path) for path in paths]
    assert [dump.descriptors.shape for dump in first] == [(37, 6)] * 2
    assert first[0].recipe["learnt"] == first[1].recipe["learnt"]
    assert open_parts(table_of(configuration, backbone, backbone.parts[0])).counts == (4, 8)
    assert run(configuration).images == 0


def test_described_parts_equal_extracted_ones(folder):
    configuration = configured(folder, PARTS)
    run(configuration)
    (folder / "queries").mkdir()
    (folder / "queries" / "g007.jpg").write_bytes((folder / "gallery" / "g007.jpg").read_bytes())
    describe(
        configuration, list_images(folder / "queries"), folder / "described", device="cpu", progress=False
    )
    ours = open_dump(parts_path(configuration, "queries", 4, folder=folder / "described"))
    theirs = open_dump(parts_path(configuration, "gallery", 4))
    assert np.array_equal(ours.descriptors[0], theirs.descriptors[7])


def test_an_interrupted_journal_line_is_cut_off(folder, monkeypatch):
    """Whatever the last bytes of a journal are, the finished windows before them count."""
    undisturbed = configured(folder, work="undisturbed")
    run(undisturbed)
    configuration = configured(folder)
    monkeypatch.setattr(backbone_pass, "COMMIT_EVERY_S", 0.0)
    with monkeypatch.context() as patched, pytest.raises(Stops):
        patched.setattr(backbone_pass, "StartedWindow", stopping_after(3))
        run(configuration)
    journal = next((folder / "work").rglob("*.journal"))
    journal.write_bytes(journal.read_bytes()[:-9])
    assert run(configuration).images == 42 - 16
    assert contents(configuration) == contents(undisturbed)


def test_a_copy_of_an_image_that_fails_in_the_window_before_fails_too(folder, monkeypatch):
    """Copies are known as such before the window of their original is finished."""
    shutil.copy(
        folder / "gallery" / "g007.jpg", folder / "gallery" / "g008.jpg"
    )  # the last of one window, the first
    shutil.copy(folder / "gallery" / "g001.jpg", folder / "gallery" / "g009.jpg")  # of the next
    configuration = configured(folder)
    describe_batch = Engine.describe

    def failing(self, views, targets):
        found = describe_batch(self, views, targets)
        bad = decode((folder / "gallery" / "g007.jpg").read_bytes(), self.sizings)[0]
        found.finite &= ~(views[0] == bad).all(axis=(1, 2, 3))
        return found

    monkeypatch.setattr(Engine, "describe", failing)
    report = run(configuration)
    reason = "the network gives values that are not finite"
    assert report.unreadable == [("gallery", "g007", reason), ("gallery", "g008", reason)]
    dump = open_dump(report.paths[0])
    assert not dump.descriptors[[7, 8]].any() and dump.descriptors[9].any()
    assert np.array_equal(dump.descriptors[9], dump.descriptors[1])


def test_embeddings_are_dumps_of_their_own(folder):
    """One `cls` and one `head` a backbone, beside a dump for each layer and pooling of maps."""
    text = BACKBONE.replace("test_resnet", "test_vit").replace(
        '"mac"', '"head", "cls", "gem-p4.6", "spoc-centre"'
    )
    configuration = configured(folder, text)
    report = run(configuration, splits=("validation",))
    names = {path.name.rsplit("-", 1)[0].replace("test_vit", "") for path in report.paths}
    maps = {f".{layer}.{pooling}" for layer in (0, 3) for pooling in ("gem-p4.6", "spoc", "spoc-centre")}
    assert names == maps | {".cls.cls", ".head.head"}
    backbone = configuration.backbones[0]
    network = create_network(backbone)
    image = Image.open(folder / "val" / "v0.jpg").resize((32, 32), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
    with torch.inference_mode():
        expected = dict(zip(network.layers, network.forward(((pixels - mean) / std)[None]), strict=True))
    for name in ("cls", "head"):
        dump = open_dump(layer_path(configuration, "validation", name, name))
        row = expected[name].flatten()
        assert np.allclose(dump.descriptors[dump.ids.index("v0")], row / row.norm(), atol=1e-5)
