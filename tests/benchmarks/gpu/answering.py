"""A bundle made from the device's dumps and answered on the CPU, beside the answer of the device itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from features.components import choices, components_of
from features.extraction import extract
from features.recipes.recipe import Recipe
from submissions.bundle import make_bundle
from submissions.predicting import open_bundle, predict
from tests.benchmarks.gpu.made_up import configured, embedded, networks, pictures
from tests.benchmarks.gpu.rows import Row, Task, judged

PLACES = 0.9  # queries described in half precision on one side alone
STEPS = ({"step": "expand", "neighbours": 2},)


def rows(task: Task) -> Iterator[Row]:
    """Layers of a convolutional network, part detectors, a class token and query expansion in one recipe."""
    side, count, queries = (64, 48, 12) if task.small else (224, 1024, 128)
    images = pictures(task.folder / "images", count, side)
    asked = pictures(task.folder / "queries", queries, side, seed=1)
    transformer = replace(networks(side, small=task.small)[-1], pooling=("cls",))
    configuration = configured(images, task.folder / "work", embedded(side, poolings=("rmac",)), transformer)
    extract(configuration, device=task.device, splits=("gallery",), progress=False)
    components = components_of(
        configuration, {name: values[0] for name, values in choices(configuration).items()}
    )
    weights = (1 / len(components),) * len(components)
    recipe = Recipe("gpu", components, weights, steps=STEPS, groups=tuple(range(len(components))))
    predict(configuration, recipe, asked, task.folder / "device.csv", device=task.device)
    made = make_bundle(configuration, recipe, task.folder / "bundle").values
    predict(
        *open_bundle(task.folder / "bundle", check_content=True), asked, task.folder / "cpu.csv", device="cpu"
    )
    one, other = _lists(task.folder / "device.csv"), _lists(task.folder / "cpu.csv")
    places = sum(a == b for name in one for a, b in zip(one[name], other[name], strict=True))
    share = places / sum(map(len, one.values()))
    first = sum(one[name][0] == other[name][0] for name in one) / len(one)
    least = PLACES if task.on_card else 1.0
    yield judged(
        f"{queries} queries, {len(components)} components, {made['files']} files",
        f"{100 * share:.1f} % of places, {100 * first:.1f} % of first places alike",
        f">= {100 * least:.0f} % of places",
        one.keys() == other.keys() and share >= least,
        same_places=share,
        same_first_places=first,
        bundle_bytes=made["bytes"],
    )


def _lists(path: Path) -> dict[str, list[str]]:
    """{query: its gallery ids} of a submission."""
    with open(path, newline="") as stream:
        return {line[0]: line[1:] for line in csv.reader(stream)}
