"""Images and configurations that are made here: nothing is read but what the project ships."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from competition.configuration import Backbone, Competition, Configuration, Parts, Simulate, Tuning
from features.components import EMBEDDINGS
from features.dumps.layout import backbone_recipe
from features.extraction.settings import (
    Settings,
    available_cores,
    fixed_settings,
    keep_settings,
    settings_path,
)
from features.pooling import POOLING

POOLINGS = (*POOLING, "gem-p4.6")
LAYERS = (0, 1, 2, 3, 4)


def pictures(folder: Path, count: int, side_px: int, *, distinct: int | None = None, seed: int = 0) -> Path:
    """Write JPEGs with detail at every scale. distinct: so many pictures; the rest are these with other bytes after
    the image, which no decoder reads, so that none is taken for a copy."""
    folder.mkdir(parents=True, exist_ok=True)
    different = min(count, distinct or count)

    def draw(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        sides = [side for side in (4, 16, 60, 400) if side <= side_px]
        layers = [
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((side_px, side_px))
            for side in sides
        ]
        mean = np.mean([np.asarray(layer, dtype=np.float32) for layer in layers], axis=0)
        Image.fromarray(mean.astype(np.uint8)).save(folder / f"m{number:05d}.jpg", quality=90)

    def again(number: int) -> None:
        data = (folder / f"m{number % different:05d}.jpg").read_bytes()
        (folder / f"m{number:05d}.jpg").write_bytes(data + number.to_bytes(8, "little"))

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(draw, range(different)))
        list(pool.map(again, range(different, count)))
    return folder


def embedded(side_px: int, *, poolings: Sequence[str] = POOLINGS, parts: bool = True) -> Backbone:
    """The network that comes with the project, the only one here with learnt weights."""
    tables = (Parts(4, (8, 16), (32,), (0.5,)),) if parts else ()
    return Backbone(
        "top7_vgg16_quarter", LAYERS, "embedded", image_size=side_px, pooling=tuple(poolings), parts=tables
    )


def random(model: str, layers: Sequence[int], side_px: int, poolings: Sequence[str]) -> Backbone:
    """A timm model with random weights."""
    return Backbone(model, tuple(layers), model, "random", image_size=side_px, pooling=tuple(poolings))


def networks(side_px: int, *, small: bool) -> list[Backbone]:
    """Between them every pooling, part detectors, `cls` and `head`, of a convolutional net and a transformer."""
    vit, layers = ("test_vit", (1, 3)) if small else ("vit_small_patch16_224", (5, 11))
    cnn, of = ("test_resnet", (1, 3)) if small else ("resnet50", (2, 4))
    return [
        replace(embedded(side_px), layers=(1, 4) if small else LAYERS),
        random(cnn, of, side_px, (*POOLINGS, "head")),
        random(vit, layers, side_px, (*POOLINGS, *EMBEDDINGS)),
    ]


def configured(images: Path, work: Path, *backbones: Backbone) -> Configuration:
    """A configuration without queries, labels and simulated photos."""
    competition = Competition("gpu", images, work=work)
    return Configuration(Path("gpu.toml"), competition, backbones, (), Tuning(), Simulate(images=0))


def preset(configuration: Configuration, backbone: Backbone, device: str, **changes: object) -> Settings:
    """Fix the settings of a backbone before its first run: those that the device would get, with some changes."""
    path = settings_path(configuration.competition.work, backbone, backbone_recipe(configuration, backbone))
    return keep_settings(path, replace(fixed_settings(path, backbone, device, keep=False), **changes))
