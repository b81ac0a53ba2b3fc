"""Fixtures every test folder shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from competition.messages import on_stderr

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("top7", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("top7")


@pytest.fixture(scope="session", autouse=True)
def messages_on_stderr() -> Iterator[None]:
    """Messages of functions called by tests, too, go where the command line prints them."""
    with on_stderr():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with the grocery competition and pretrained weights; skips, with the reason, without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "grocery").is_dir():
        pytest.skip(f"{folder} is absent: this test needs the grocery images and pretrained weights")
    return folder


@pytest.fixture(scope="session")
def dask_cluster() -> Iterator[Any]:
    """A Dask cluster of two worker processes on this machine, which are started again when they die."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def tiny_competition(tmp_path_factory) -> Path:
    """A competition of 24 flat pictures in 8 colours with a tiny random network; returns its config.toml.

    Gallery images of one colour are each other's only like, so any sane descriptor ranks them first.
    """
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    colours = [
        (200, 30, 30),
        (30, 200, 30),
        (30, 30, 200),
        (200, 200, 30),
        (200, 30, 200),
        (30, 200, 200),
        (120, 120, 120),
        (240, 140, 60),
    ]

    def draw(path: Path, colour: tuple[int, int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.array(colour) + generator.normal(0, 8, (48, 48, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)

    for number in range(24):
        draw(folder / "gallery" / f"000{number % 2}" / f"n{number:02d}.jpg", colours[number % 8])
    for split, letter in (("val", "v"), ("test", "t")):
        for number in range(8):
            draw(folder / split / f"{letter}{number}.jpg", colours[number])
    rows = [f"v{number},n{number:02d},n{number + 8:02d}" for number in range(8)]
    (folder / "val.csv").write_text("\n".join(["Validation Image ID,Training Image ID", *rows]) + "\n")
    (folder / "config.toml").write_text("""
[competition]
name = "tiny"
gallery = "gallery"
validation = "val"
labels = "val.csv"
test = "test"

[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 48
layers = [0, 1, 2]
pooling = ["spoc", "fcrow"]
parts = { layer = 2, counts = [4, 8], dims = [4, 8], exponents = [0.5, 1.0] }

[simulate]
images = 0

[tuning]
trials = 12
""")
    return folder / "config.toml"
