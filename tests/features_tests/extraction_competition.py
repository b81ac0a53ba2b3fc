"""A small labelled competition on disk, and short ways to extract it and to read what came out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from competition.configuration import load_configuration
from features.components import external_component, layer_component
from features.descriptors import open_components
from features.dumps import Dump
from features.dumps.layout import component_path, dumps_folder, projection_path, table_of
from features.extraction import backbone_pass, extract
from features.extraction.engine import Engine


def draw(folder: Path, names: list[str], seed: int = 0, size: tuple[int, int] = (40, 30)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.jpg", quality=90)


BACKBONE = """
[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 32
layers = [0, 3]
pooling = ["spoc", "mac"]
"""


def configured(
    folder: Path, backbone: str = BACKBONE, work: str = "work", simulated: int = 0, views: bool = False
):
    """views: whether queries are described by views too: passes of their own, which most tests do not count."""
    of_views = f"[[backbone]]\nquery_views = {str(views).lower()}\n"
    (folder / "config.toml").write_text(
        '[competition]\nname = "tiny"\ngallery = "gallery"\nvalidation = "val"\nlabels = "val.csv"\n'
        + f"[simulate]\nimages = {simulated}\n"
        + backbone.replace("[[backbone]]\n", of_views)
    )
    return load_configuration(folder / "config.toml", work=folder / work)


def layer_path(configuration, split: str, layer: int | str, pooling: str, folder: Path | None = None) -> Path:
    """Where a layer's dump of the first backbone lies."""
    component = layer_component(configuration.backbones[0], layer, pooling)
    return component_path(configuration, component, split, folder)


def parts_path(configuration, split: str, count: int, table: int = 0, folder: Path | None = None) -> Path:
    """Where the projection of a parts table of the first backbone lies."""
    backbone = configuration.backbones[0]
    folder = folder or dumps_folder(configuration, split)
    return projection_path(table_of(configuration, backbone, backbone.parts[table]), count, folder)


def external_dump(configuration, split: str) -> Dump:
    """The dump of the first [[external]]."""
    return open_components(configuration, [external_component(configuration.externals[0])], split, None)[0]


def run(configuration, **options):
    return extract(configuration, device="cpu", progress=False, **options)


def contents(configuration, kinds: tuple[str, ...] = (".npy", ".json")) -> dict[str, bytes]:
    """Every finished file under the dumps; hidden ones are in the making."""
    base = Path(configuration.competition.work) / "dumps"
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file() and path.suffix in kinds and not path.name.startswith(".")
    }


class Stops(Exception):
    pass


def stopping_after(windows: int) -> type:
    """A stand-in for `backbone_pass.StartedWindow`: `Stops` once so many windows are finished."""
    finished = []

    class Stopping(backbone_pass.StartedWindow):
        def finish(self):
            finished.append(self)
            if len(finished) > windows:
                raise Stops
            return super().finish()

    return Stopping


def counted(monkeypatch) -> list[int]:
    """The images in each batch that the network runs from now on; the probe for the hours is left out."""
    run_images: list[int] = []
    describe_batch = Engine.describe

    def counting(self, views, targets):
        run_images.append(int(views[0].any(axis=(1, 2, 3)).sum()))
        return describe_batch(self, views, targets)

    monkeypatch.setattr(
        sys.modules["features.extraction.extract"], "seconds_an_image", lambda *arguments: 0.0
    )
    monkeypatch.setattr(Engine, "describe", counting)
    return run_images
