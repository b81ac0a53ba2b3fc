"""Extraction refuses, quarantines and explains: bad images, disks, devices, configurations, externals."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from competition.errors import ConfigurationError, Top7Error
from features.dumps import open_dump
from features.dumps.disk import DiskFull
from features.extraction import (
    backbone_pass,
    extract,
    extracted_images,
    plan,
)
from features.extraction.extract import alone
from tests.features_tests.extraction_competition import (
    BACKBONE,
    configured,
    contents,
    external_dump,
    layer_path,
    run,
)

ROOT = Path(__file__).resolve().parents[2]


def spoil(folder: Path) -> dict[str, str]:
    """Five gallery images replaced by what cannot be read; id -> part of the reason."""
    gallery = folder / "gallery"
    (gallery / "g002.jpg").write_bytes(b"")
    (gallery / "g009.jpg").write_bytes((gallery / "g009.jpg").read_bytes()[:300])
    (gallery / "g010.jpg").write_bytes(b"GIF89a nonsense")
    (gallery / "g011.jpg").write_text("<html>404</html>")
    (gallery / "g036.jpg").unlink()
    (gallery / "g036.jpg").symlink_to(folder / "nowhere.jpg")
    return {
        "g002": "empty",
        "g009": "damaged",
        "g010": "",
        "g011": "not an image",
        "g036": "cannot be opened",
    }


def test_unreadable_images_are_named_and_leave_their_neighbours_alone(folder, capsys):
    healthy = configured(folder, work="healthy")
    run(healthy)
    reasons = spoil(folder)
    configuration = configured(folder)
    report = run(configuration)
    assert [(split, name) for split, name, _ in report.unreadable] == [("gallery", name) for name in reasons]
    assert all(reasons[name] in reason for _, name, reason in report.unreadable)
    said = capsys.readouterr().err
    assert all(f"gallery {name}" in said for name in reasons)
    for layer in (0, 3):
        path = layer_path(configuration, "gallery", layer, "mac")
        dump, whole = open_dump(path), open_dump(healthy.competition.work / path.relative_to(folder / "work"))
        rows = [int(name[1:]) for name in reasons]
        assert np.flatnonzero(dump.unreadable).tolist() == rows
        assert not dump.descriptors[rows].any() and not dump.norms[rows].any()
        others = np.setdiff1d(np.arange(37), rows)
        assert np.array_equal(dump.descriptors[others], whole.descriptors[others])


def test_values_that_are_not_finite_make_an_image_unreadable(folder, monkeypatch):
    from features.extraction.engine import Engine

    original = Engine.maps

    def harmed(self, pixels, **options):
        """Infinity in one channel of the third image of the first, full batch."""
        maps = [found.clone() for found in original(self, pixels, **options)]
        if len(pixels) == 4 and pixels[3].any():
            maps[1][2, 5] = float("inf")
        return maps

    monkeypatch.setattr(Engine, "maps", harmed)
    report = run(configured(folder), splits=("validation",))
    assert report.unreadable == [("validation", "v2", "the network gives values that are not finite")]


def test_the_plan_is_said_first_and_a_small_disk_refused(folder, monkeypatch, capsys):
    configuration = configured(folder)
    expected = plan(configuration, device="cpu")
    assert expected.images == 42 and expected.seconds > 0 and expected.bytes_free > 0
    descriptors = 42 * 4 * sum(2 * width for width in (32, 96))
    assert descriptors < expected.bytes_needed < 4 * descriptors
    monkeypatch.setattr(sys.modules["features.extraction.extract"], "free_bytes", lambda folder: 1000)
    with pytest.raises(Top7Error, match=r"work.*need.*MiB.*0.0 MiB are free"):
        run(configuration)
    said = capsys.readouterr()
    assert re.search(
        r"gallery: 37 images, 4 dumps; .*MiB needed, 0.0 MiB free; about [0-9.]+ (s|min|h)", said.err
    )
    assert not said.out and not list((folder / "work").rglob("*.partial"))


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(folder, monkeypatch):
    undisturbed = configured(folder, work="undisturbed")
    run(undisturbed)
    configuration = configured(folder)
    monkeypatch.setattr(backbone_pass, "COMMIT_EVERY_S", 0.0)
    write_at, calls = os.pwrite, []

    def full(descriptor, data, offset):
        calls.append(1)
        if len(calls) == 30:
            raise OSError(28, "No space left on device")
        return write_at(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="the disk is full.*run the same command again") as caught:
        run(configuration)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "pwrite", write_at)
    run(configuration)
    assert contents(configuration) == contents(undisturbed)


def test_two_extractions_on_one_folder(folder):
    configuration = configured(folder)
    with alone(configuration.competition.work):
        with pytest.raises(Top7Error, match="another extraction is running"):
            run(configuration)
    run(configuration)


@pytest.mark.parametrize(
    "change, message",
    [
        (('"mac"]', '"macc"]'), "unknown pooling 'macc'.*did you mean 'mac'"),
        (("layers = [0, 3]", "layers = [0, 8]"), "no layer 8"),
        (('"test_resnet"', '"test_resnt"'), "unknown timm model.*did you mean 'test_resnet'"),
        (('"random"', '"absent.safetensors"'), "absent.safetensors: no such weights file"),
        (
            ('["spoc", "mac"]', '["spoc", "fcrow"]\noptions = { act_layer = "gelu" }'),
            "negative.*clamp = true there",
        ),
        (
            (
                '"mac"]',
                '"mac"]\noptions = { act_layer = "gelu" }\nparts = { layer = 3, counts = [4], dims = [3] }',
            ),
            "test_resnet, parts of layer 3: .*negative.*clamp = true there",
        ),
    ],
)
def test_bad_configurations_are_one_line(folder, change, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        run(configured(folder, BACKBONE.replace(*change)))
    assert "\n" not in str(caught.value)


def test_transformers_are_clamped_and_said(folder, capsys):
    text = BACKBONE.replace("test_resnet", "test_vit").replace('"mac"]', '"gem"]')
    report = run(configured(folder, text))
    assert "clamped at zero for gem" in capsys.readouterr().err
    assert (open_dump(report.paths[1]).descriptors >= 0).all()
    assert (open_dump(report.paths[0]).descriptors < 0).any()


def test_cuda_that_is_not_there(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigurationError, match="no CUDA device"):
        extract(configured(folder), device="cuda")


def test_auto_says_that_it_fell_to_the_cpu(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    extract(configured(folder), device="auto", progress=False, splits=("validation",))
    assert "no CUDA device" in capsys.readouterr().err


EXTERNAL = '[[external]]\nname = "clip"\ngallery = "clip/gallery.npy"\nvalidation = "clip/val.npy"\n'


def external(folder: Path) -> np.ndarray:
    (folder / "clip").mkdir()
    rows = np.random.default_rng(4).normal(size=(37, 6))
    order = np.random.default_rng(5).permutation(37)
    np.save(folder / "clip" / "gallery.npy", rows[order].astype(np.float16))
    (folder / "clip" / "gallery.ids").write_text("".join(f"g{i:03d}\n" for i in order))
    np.save(folder / "clip" / "val.npy", rows[:5].astype(np.float32))
    (folder / "clip" / "val.ids").write_text("v0\nv1\nv2\nv3\nv4\n")
    return rows


def test_external_descriptors_come_in_row_order_and_normalised(folder):
    rows = external(folder)
    configuration = configured(folder, EXTERNAL)
    run(configuration)
    dump = external_dump(configuration, "gallery")
    assert dump.ids == tuple(extracted_images(configuration, "gallery").ids)
    half = rows.astype(np.float16).astype(np.float64)
    lengths = np.linalg.norm(half, axis=1)
    assert np.allclose(dump.descriptors, half / lengths[:, None], atol=1e-6) and np.allclose(
        dump.norms, lengths
    )


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda f: (f / "clip/gallery.npy").unlink(), "gallery.npy: no such"),
        (lambda f: (f / "clip/gallery.ids").unlink(), "gallery.ids: no such file"),
        (lambda f: (f / "clip/gallery.ids").write_text("g000\n"), "1 ids for 37 images: 36 images have none"),
        (
            lambda f: (f / "clip/gallery.ids").write_text("g000\n" * 37),
            "line 2: the id 'g000' is on line 1 too",
        ),
        (lambda f: np.save(f / "clip/gallery.npy", np.zeros((36, 6), np.float32)), "36 rows for the 37 ids"),
        (lambda f: np.save(f / "clip/gallery.npy", np.zeros(37, np.float32)), "expected .rows, dimensions."),
        (
            lambda f: np.save(f / "clip/gallery.npy", np.array([None] * 37), allow_pickle=True),
            "not a .npy matrix",
        ),
        (lambda f: (f / "clip/gallery.npy").write_bytes(b"x"), "not a .npy matrix"),
    ],
)
def test_bad_externals_are_one_line(folder, harm, message):
    external(folder)
    harm(folder)
    with pytest.raises(Top7Error, match=message) as caught:
        run(configured(folder, BACKBONE + EXTERNAL))
    assert "\n" not in str(caught.value)
    assert not list((folder / "work").rglob("test_resnet*.npy")), "said before anything was extracted"


def test_a_disk_too_small_for_external_descriptors(folder, monkeypatch, capsys):
    external(folder)
    configuration = configured(folder, EXTERNAL)
    expected = plan(configuration, device="cpu")
    assert expected.bytes_needed >= (37 + 5) * 6 * 4 and not expected.passes
    monkeypatch.setattr(sys.modules["features.extraction.extract"], "free_bytes", lambda folder: 1000)
    with pytest.raises(Top7Error, match=r"work.*need.*MiB.*0.0 MiB are free"):
        run(configuration)
    assert "clip on gallery: 37 rows to copy" in capsys.readouterr().err
    monkeypatch.undo()
    run(configuration)
    assert plan(configuration, device="cpu").sentence() == "every dump is there already: nothing to extract"


def test_corrected_ids_of_an_external_are_noticed(folder):
    rows = external(folder)
    configuration = configured(folder, EXTERNAL)
    run(configuration)
    ids = (folder / "clip" / "gallery.ids").read_text().split()
    (folder / "clip" / "gallery.ids").write_text("\n".join(reversed(ids)))
    run(configuration)
    dump = external_dump(configuration, "gallery")
    row_of = {name: row for row, name in enumerate(reversed(ids))}
    given = np.load(folder / "clip" / "gallery.npy").astype(np.float64)[[row_of[name] for name in dump.ids]]
    assert len(rows) == len(given)
    assert np.allclose(dump.descriptors, given / np.linalg.norm(given, axis=1, keepdims=True), atol=1e-6)


def test_an_external_without_descriptors_of_a_split_is_one_line(folder):
    external(folder)
    configuration = configured(folder, EXTERNAL.replace('validation = "clip/val.npy"\n', ""))
    run(configuration)
    with pytest.raises(ConfigurationError, match=r"\[\[external\]\] clip has no .* validation images: add"):
        external_dump(configuration, "validation")


def test_an_external_row_of_zeros_is_unreadable(folder):
    external(folder)
    np.save(folder / "clip" / "val.npy", np.array([[1, 0], [0, 0], [np.nan, 1], [0, 2], [3, 4]], np.float32))
    configuration = configured(folder, EXTERNAL)
    said = [entry[:2] for entry in run(configuration).unreadable]
    assert said == [("validation", "v1"), ("validation", "v2")]
    dump = external_dump(configuration, "validation")
    assert dump.unreadable.tolist() == [False, True, True, False, False]
    assert np.allclose(dump.descriptors[4], [0.6, 0.8])
