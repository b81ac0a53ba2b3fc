"""The competitions that recipes are measured on, extracted once with every pooling a named recipe asks for:
grocery with one or two backbones, and the embedded competition under any generator seed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from competition.configuration import Configuration, Parts, load_configuration
from competition.images import list_images
from competition.labels import read_labels, relevant_rows
from competition.mini import build
from competition.splits import private_mask, query_groups
from features.extraction import extract
from tests.grocery import SHARED, grocery_configuration

POOLINGS = (
    "spoc",
    "spoc-centre",
    "mac",
    "gem",
    "crow",
    "fcrow",
    "rmac",
    "ramac",
    "grmac",
    "amac",
    "rmac-whole",
    "ramac-whole",
    "grmac-whole",
)
GROCERY_PARTS = (
    "{ layer = 4, counts = [25, 50, 100, 150], dims = [64, 128, 256, 512], exponents = [0.5, 1.0] }"
)
SECOND_BACKBONE = f"""
[[backbone]]
model = "mobilenetv2_100"
weights = "{SHARED}/weights/mobilenetv2_100.safetensors"
options = {{ pad_type = "same", feature_location = "expansion" }}
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
image_size = 288
layers = [0, 1, 2, 3, 4]
pooling = {list(POOLINGS)}
parts = {GROCERY_PARTS}
"""


@dataclass(frozen=True)
class Queries:
    """Labelled queries of one split. relevant: per query its correct gallery rows; groups (Q,); private (Q,) bool."""

    split: str
    ids: tuple[str, ...]
    relevant: list
    groups: np.ndarray
    private: np.ndarray


@dataclass(frozen=True)
class Contest:
    """A configuration whose dumps are there, its gallery, and its labelled queries by split."""

    name: str
    configuration: Configuration
    gallery: tuple[str, ...]
    queries: dict[str, Queries]


def contest(name: str, configuration: Configuration, labels: dict[str, Path]) -> Contest:
    """Open a configuration's competition; labels: a label file for each split that has one."""
    gallery = tuple(list_images(configuration.competition.gallery).ids)
    found = {}
    for split, file in labels.items():
        ids = tuple(list_images(getattr(configuration.competition, split)).ids)
        relevant = relevant_rows(read_labels(file, query_ids=ids, gallery_ids=gallery), gallery)
        groups = query_groups(relevant)
        tuning = configuration.tuning
        private = private_mask(groups, tuning.private if split == "validation" else 0.0, tuning.seed)
        found[split] = Queries(split, ids, relevant, groups, private)
    return Contest(name, configuration, gallery, found)


def configured(config: Path) -> Contest:
    """The validation queries of a configuration whose dumps `./run.sh extract` made."""
    configuration = load_configuration(config)
    return contest(
        configuration.competition.name, configuration, {"validation": configuration.competition.labels}
    )


def grocery(work: Path, backbones: int) -> Contest:
    """../shared/grocery with mobilenetv1_100, or with mobilenetv2_100 beside it, extracted under `work`."""
    text = grocery_configuration(SHARED, list(POOLINGS), GROCERY_PARTS, simulated=2000)
    text += SECOND_BACKBONE if backbones == 2 else ""
    work.mkdir(parents=True, exist_ok=True)
    config = work / f"grocery-{backbones}.toml"
    config.write_text(text)
    configuration = load_configuration(config, work=work / "grocery")
    _extracted(configuration)
    return contest(
        f"grocery, {backbones} backbone{'s' * (backbones > 1)}",
        configuration,
        {"validation": configuration.competition.labels},
    )


def embedded(work: Path, seed: int) -> Contest:
    """The embedded competition of one generator seed, extracted under `work` with more poolings and detectors than
    its own configuration names; the labels of its test queries are the generator's.
    """
    configuration = load_configuration(build(work / f"seed{seed}", seed=seed), work=work / f"dumps{seed}")
    own = configuration.backbones[0]
    parts = tuple(
        Parts(layer=table.layer, counts=(25, 50, 100), dims=(32, 64, 128, 256), exponents=table.exponents)
        for table in own.parts
    )
    configuration = replace(
        configuration,
        backbones=(replace(own, pooling=POOLINGS, parts=parts),),
        simulate=replace(configuration.simulate, images=600),
    )
    _extracted(configuration)
    held_back = configuration.path.parent / "held_back" / "test.csv"
    return contest(
        f"seed {seed}", configuration, {"validation": configuration.competition.labels, "test": held_back}
    )


def _extracted(configuration: Configuration) -> None:
    print(f"{configuration.competition.name}: dumps in {configuration.competition.work}", file=sys.stderr)
    extract(configuration, progress=False)
