"""What a plan says before anything runs: time by two timed batches, and the bytes of what is learnt."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from competition.configured import split_images
from features.dumps.layout import backbone_recipe, configured_targets
from features.dumps.part_tables import part_table
from features.extraction import plan
from features.extraction.engine import Engine
from features.extraction.estimate import seconds_an_image
from features.extraction.settings import fixed_settings
from features.parts.learning import Remaining, remaining

TEXT = """
[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 32
layers = [0]
pooling = ["spoc"]
parts = {{ layer = 0, counts = {counts}, dims = [3] }}
"""


def configured(tiny, counts: list[int]):
    return tiny.configured(backbone=TEXT.format(counts=counts))


def test_what_is_left_to_learn(tiny):
    def left(counts: list[int]):
        configuration = configured(tiny, counts)
        backbone = configuration.backbones[0]
        recipe = backbone_recipe(configuration, backbone)
        table = part_table(configuration.competition.work, backbone.name, recipe, backbone.parts[0])
        return remaining(table.parts, **table.model), len(table.ids)

    assert left([4, 8]) == (Remaining(2, 8, 2), 0)  # no sample is recorded yet
    tiny.run(configured(tiny, [4, 8]))
    assert left([4, 8]) == (Remaining(0, 0, 0), 21)
    assert left([4, 6]) == (Remaining(0, 0, 1), 21)
    assert left([8, 12]) == (Remaining(1, 4, 1), 21)


def test_a_plan_counts_the_forward_passes_of_images_and_of_learning_once(tiny, monkeypatch):
    extraction = sys.modules["features.extraction.extract"]
    monkeypatch.setattr(extraction, "seconds_an_image", lambda *arguments: 3.0)
    configuration = configured(tiny, [4, 8])
    first = plan(configuration, device="cpu")
    passes = [(found.split, found.seconds) for found in first.passes]
    assert passes == [("gallery", 21 * 3 + 2 * 21 * 3), ("validation", 9), ("validation, by views", 9)]
    assert "about 3 min, and part detectors" in first.sentence()
    tiny.run(configuration, splits=("gallery", "validation"))
    tiny.draw(["g001"])
    assert plan(configuration, device="cpu").seconds == 3


def test_two_batches_are_timed_after_one(tiny):
    configuration = tiny.configured()
    backbone, ticks = configuration.backbones[0], itertools.count()
    settings = fixed_settings(Path("none"), backbone, "cpu", threads=1, keep=False)
    engine, images = Engine(backbone, settings), split_images(configuration, "gallery")
    targets = configured_targets(configuration, backbone, tiny.folder)
    found = seconds_an_image(engine, images, targets, 21, clock=lambda: float(next(ticks)))
    assert (settings.batch_rows, found) == (4, 1 / 8)  # one tick for eight images


def test_the_bytes_of_what_is_learnt_are_in_the_plan(tiny):
    configuration = configured(tiny, [4, 8])
    planned = plan(configuration, splits=("gallery",), device="cpu")
    learnt = planned.bytes_needed - sum(found.bytes_needed for found in planned.passes)
    assert learnt == 21 * (2 * 32 * 8 + 8 * 3 * 2)
    tiny.run(configuration)
    files = [
        path
        for path in (tiny.folder / "work" / "parts").rglob("*")
        if path.suffix in (".npy", ".safetensors")
    ]
    headers = 1024 * len(files)
    assert learnt <= sum(path.stat().st_size for path in files) <= learnt + headers
    more = plan(configured(tiny, [4, 6]), splits=("gallery",), device="cpu")
    assert more.bytes_needed - sum(found.bytes_needed for found in more.passes) == 21 * 8 * 3
