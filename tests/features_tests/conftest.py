"""A tiny competition on disk for tests of extraction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from competition.configuration import Configuration, load_configuration
from features.extraction import ExtractionReport, extract, settings
from tests.features_tests.extraction_competition import draw

BACKBONE = """
[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 32
layers = [0]
pooling = ["spoc", "mac"]
"""


class TinyCompetition:
    """21 gallery and 3 validation images; windows of 8 rows in batches of 4, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draw([f"g{i:03d}" for i in range(0, 42, 2)])
        self.draw(["v0", "v1", "v2"], split="val", seed=1)

    def draw(self, names: list[str], *, split: str = "gallery", seed: int = 0) -> None:
        """Draw images; the same name and seed give the same file."""
        (self.folder / split).mkdir(parents=True, exist_ok=True)
        for name in names:
            rng = np.random.default_rng([seed, *name.encode()])
            small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
            small.resize((40, 30), Image.Resampling.BICUBIC).save(self.folder / split / f"{name}.png")

    def image(self, name: str) -> Path:
        return self.folder / "gallery" / f"{name}.png"

    def configured(self, work: str = "work", backbone: str = BACKBONE) -> Configuration:
        head = (
            '[competition]\nname = "tiny"\ngallery = "gallery"\nvalidation = "val"\n[simulate]\nimages = 0\n'
        )
        (self.folder / "config.toml").write_text(head + backbone)
        return load_configuration(self.folder / "config.toml", work=self.folder / work)

    def run(self, configuration: Configuration, **options: object) -> ExtractionReport:
        return extract(
            configuration, **({"device": "cpu", "progress": False, "splits": ("gallery",)} | options)
        )

    def contents(self, configuration: Configuration) -> dict[str, bytes]:
        """Every finished file of the gallery's dumps."""
        base = Path(configuration.competition.work) / "dumps" / "gallery"
        return {path.name: path.read_bytes() for path in sorted(base.iterdir())}


@pytest.fixture()
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 8 rows in batches of 4."""
    monkeypatch.setattr(settings, "WINDOW_ROWS", 8)
    monkeypatch.setattr(settings, "BATCH_PIXELS", 4 * 32 * 32)


@pytest.fixture()
def tiny(tmp_path: Path, small_windows: None) -> TinyCompetition:
    return TinyCompetition(tmp_path)


@pytest.fixture()
def folder(tmp_path: Path, small_windows: None) -> Path:
    """37 gallery and 5 validation images with labels."""
    draw(tmp_path / "gallery", [f"g{i:03d}" for i in range(37)])
    draw(tmp_path / "val", [f"v{i}" for i in range(5)], seed=1)
    (tmp_path / "val.csv").write_text("v0,g003\nv1,g004,g030\nv2,g005\nv3,g006\nv4,g007\n")
    return tmp_path
