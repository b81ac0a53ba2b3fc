"""The hours foretold: what part detectors add, and what is not to be learnt again."""

from __future__ import annotations

import itertools
import sys

import pytest

from competition.images import split_images
from features.extraction import plan

running = sys.modules["features.extraction.extract"]
from features.extraction.foretelling import PartCosts, learning_s, part_costs, projecting_s
from features.extraction.learn_parts import left_to_learn
from features.parts.remaining import Remaining

COSTS = PartCosts(maps_s=2, aggregate_s=0.4, product_s=0.01, combine_s=0.1, gram_s=3, solve_s=5)
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


def test_sums_by_hand(tiny):
    parts = configured(tiny, [4, 8]).backbones[0].parts[0]
    assert projecting_s(COSTS, [4, 8]) == pytest.approx(0.4 + 8 * 0.01 + 2 * 0.1)
    assert projecting_s(COSTS, [4], views=2) == pytest.approx(2 * (0.4 + 4 * 0.01 + 0.1))
    left = Remaining(passes=2, aggregated=8, gram_detectors=8, counts=2)
    assert learning_s(COSTS, parts, left, 10) == pytest.approx(2 * 10 * 2 + 10 * 0.4 + 8 * 3 + 2 * 5)
    more = Remaining(passes=1, aggregated=2, gram_detectors=8, counts=1)
    assert learning_s(COSTS, parts, more, 10) == pytest.approx(10 * 2 + 10 * 0.4 * 2 / 8 + 8 * 3 + 5)
    assert learning_s(COSTS, parts, Remaining(0, 0, 0, 0), 10) == 0


def test_what_is_left_to_learn(tiny):
    def left(counts: list[int]):
        configuration = configured(tiny, counts)
        return left_to_learn(configuration, configuration.backbones[0], configuration.backbones[0].parts[0])

    assert left([4, 8]) == (Remaining(2, 8, 8, 2), 0)  # no sample is recorded yet
    tiny.run(configured(tiny, [4, 8]))
    assert left([4, 8]) == (Remaining(0, 0, 0, 0), 21)
    assert left([4, 6]) == (Remaining(0, 0, 6, 1), 21)
    assert left([8, 12]) == (Remaining(1, 4, 12, 1), 21)


def test_a_plan_counts_learning_once_and_projection_for_each_image(tiny, monkeypatch):
    monkeypatch.setattr(running, "seconds_an_image", lambda *arguments: 1.0)
    monkeypatch.setattr(running, "part_costs", lambda *arguments: COSTS)
    configuration = configured(tiny, [4, 8])
    each = 1 + 0.4 + 8 * 0.01 + 2 * 0.1
    learning = 2 * 21 * 2 + 21 * 0.4 + 8 * 3 + 2 * 5
    first = plan(configuration, device="cpu")
    assert [found.seconds for found in first.passes] == pytest.approx([21 * each + learning, 3 * each])
    tiny.run(configuration, splits=("gallery", "validation"))
    tiny.draw(["g001"])
    assert plan(configuration, device="cpu").seconds == pytest.approx(each)


def test_the_bytes_of_what_is_learnt_are_foretold(tiny):
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


@pytest.mark.parametrize("form", ["NxC", "NxN"])
def test_costs_of_larger_samples_are_scaled(tiny, form):
    """A clock that ticks once a call: each probe then takes one second."""
    configuration = tiny.configured(
        backbone=TEXT.format(counts=[4, 8]).replace("dims", f'form = "{form}", dims')
    )
    tiny.run(configuration)
    ticks = itertools.count()
    work = running.Work(configuration, {}, {}, "cpu")
    engine = work._engine(configuration.backbones[0])
    images = split_images(configuration, "gallery")
    found = part_costs(engine, engine.backbone.parts[0], images, 4000, clock=lambda: float(next(ticks)))
    assert found.gram_s == 2**2 and found.solve_s == 10**3  # probes of 2,000 and 400 images
    assert found.maps_s == pytest.approx(1 / 12) and found.aggregate_s == pytest.approx(1 / 4)
    assert (found.product_s, found.combine_s) == (0, pytest.approx(2 / 64))
