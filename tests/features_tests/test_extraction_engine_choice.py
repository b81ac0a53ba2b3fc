"""A network compiled, or not, and why: on the CPU, where the compiler is the same but for what it writes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from competition.configuration import Backbone
from features.extraction import engine_choice
from features.extraction.engine import Engine
from features.extraction.engine_choice import compiling_helps
from features.extraction.settings import Settings

SETTINGS = Settings("cpu", 1, "float32", "channels_last", 2, 8, torch.__version__)


@pytest.fixture
def engine():
    threads = torch.get_num_threads()
    yield Engine(Backbone("test_resnet", (0, 1), "test_resnet", weights="random", image_size=32), SETTINGS)
    torch.set_num_threads(threads)


class Clock:
    """Each reading is `steps` seconds after the last, in turn."""

    def __init__(self, *steps: float) -> None:
        self.steps, self.now = list(steps), 0.0

    def __call__(self) -> float:
        self.now += self.steps.pop(0)
        return self.now


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_gives_the_maps(engine):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    compiled = Engine(engine.backbone, replace(SETTINGS, compiled=True))
    for network in (engine.network, compiled.network):  # random weights: the same in both
        for number, value in enumerate(network.module.state_dict().values()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(number)))
    for plain, found in zip(engine.maps(pixels), compiled.maps(pixels), strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("compiled_s, helps", [(0.5, True), (0.94, True), (0.97, False), (2.0, False)])
def test_only_what_is_faster_is_kept(engine, monkeypatch, compiled_s, helps):
    monkeypatch.setattr("features.networks.backbones.torch.compile", lambda forward, **_: forward)
    monkeypatch.setattr(engine_choice, "Engine", lambda backbone, settings: engine)
    found, why = compiling_helps(engine, Clock(0, 1.0, 0, compiled_s))
    assert (
        found is helps and "images/s compiled, 16 as it is" in why
    )  # eight rounds of two images in a second


def test_a_compiler_that_fails_is_said(engine, monkeypatch):
    def fails(forward, **_):
        def forward_fails(images):
            raise RuntimeError("no compiler here\nsecond line")

        return forward_fails

    monkeypatch.setattr("features.networks.backbones.torch.compile", fails)
    assert compiling_helps(engine) == (
        False,
        "test_resnet: not compiled: torch.compile fails here: no compiler here",
    )


def test_other_maps_are_refused(engine, monkeypatch):
    def wrong(forward, **_):
        return lambda images: [maps * 1.1 for maps in forward(images)]

    monkeypatch.setattr("features.networks.backbones.torch.compile", wrong)
    monkeypatch.setattr(engine_choice, "Engine", lambda backbone, settings: twin)
    twin = Engine(engine.backbone, SETTINGS)
    twin.network.module.load_state_dict(engine.network.module.state_dict())
    twin._idle = [twin.network.compiled()]
    found, why = compiling_helps(engine)
    assert not found and "would differ by 1.0e-01" in why


def test_images_of_many_shapes_are_not_compiled(engine):
    engine.backbone = replace(engine.backbone, resize="keep")
    assert not compiling_helps(engine)[0]
