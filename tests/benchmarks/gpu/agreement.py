"""Descriptors of the CPU in float32 beside the device's: every pooling, part detectors, `cls` and `head`.

The part detectors are learnt once, on the CPU, so that both sides project onto the same axes. On `--device cpu` what
stands for the card is the CPU with convolutions as timm has them and batches of another size.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from competition.configuration import Backbone, Configuration
from features.components import EMBEDDINGS
from features.dumps import open_dump
from features.dumps.layout import configured_targets, dumps_folder
from features.extraction import engine_choice, extract
from tests.benchmarks.gpu.made_up import configured, networks, pictures, preset
from tests.benchmarks.gpu.rows import Row, Task, judged, skipped

# precision: (largest difference of a value of a unit descriptor, least cosine, least share of places of the top 7)
GOALS = {"float32": (1e-5, 1 - 1e-6, 0.99), "float16": (1.0, 0.999, 0.9), "bfloat16": (1.0, 0.99, 0.7)}
# poolings with a threshold: what lies on it by a hair is in or out, and single rows are far apart; their mean is judged
THRESHOLD = ("ramac", "ramac-whole", "grmac", "grmac-whole", "amac")
# poolings that count what is not zero: a value that is zero on one side alone changes them
COUNTING = ("crow", "fcrow", "fcrow-sums", "fcrow-outside")
COUNTED = 1e-3  # the largest difference in float32
MEAN_COSINE = {"float32": 0.9999, "float16": 0.999, "bfloat16": 0.99}
THRESHOLDS, COUNTS = "poolings with a threshold", "poolings that count"
TOP = 7


def rows(task: Task) -> Iterator[Row]:
    """A row for each network, precision and kind of descriptor, networks as they are."""
    chosen = networks(_side(task), small=task.small)
    yield from compared(task, [(network, precision, False) for precision in GOALS for network in chosen], 10)


def compared(task: Task, variants: Sequence[tuple[Backbone, str, bool]], least_s: float) -> Iterator[Row]:
    """Rows of (network, precision, compiled or not); what is begun with less than `least_s` left is skipped."""
    engine_choice.COMPILED_FROM = 0  # else few images are not worth the compiler
    images = pictures(task.folder / "images", 40 if task.small else 256, _side(task))
    expected: dict[str, dict[str, np.ndarray]] = {}
    for backbone, precision, compiled in variants:
        what = f"{backbone.name}, {precision}{', compiled' if compiled else ''}"
        if task.left_s() < least_s:
            yield skipped(what, "no time left for it", goal_of(precision))
            continue
        reference = configured(images, task.folder / f"cpu-{backbone.name}", backbone)
        if backbone.name not in expected:
            extract(reference, device="cpu", splits=("gallery",), progress=False)
            expected[backbone.name] = _descriptors(reference, backbone)
        work = task.folder / f"{backbone.name}-{precision}"
        found = configured(images, work, backbone)
        if backbone.parts:
            shutil.copytree(reference.competition.work / "parts", work / "parts")
        changes = {"compiled": compiled} if task.on_card else {"batch_rows": 4, "fused": False}
        preset(found, backbone, task.device, precision=precision, **changes)
        extract(found, device=task.device, splits=("gallery",), progress=False)
        yield from _compared(what, precision, expected[backbone.name], _descriptors(found, backbone))
        shutil.rmtree(work)


def _side(task: Task) -> int:
    return 64 if task.small else 224


def _descriptors(configuration: Configuration, backbone: Backbone) -> dict[str, np.ndarray]:
    """{"layer/pooling", "cls", "head" or "parts N": (n, D) float32} of the gallery."""
    found = {}
    for target in configured_targets(configuration, backbone, dumps_folder(configuration, "gallery")):
        label = f"parts {target.count}" if target.parts else f"{target.layer}/{target.pooling}"
        name = target.pooling if target.pooling in EMBEDDINGS else label
        found[name] = np.array(open_dump(target.path).descriptors)
    return found


def _kind(name: str) -> str:
    if name in EMBEDDINGS or name.startswith("parts"):
        return name.split()[0]
    pooling = name.split("/")[1]
    return THRESHOLDS if pooling in THRESHOLD else COUNTS if pooling in COUNTING else "poolings"


def _compared(what: str, precision: str, expected: dict, found: dict) -> Iterator[Row]:
    """A row for each kind of descriptor; its places are those of all its layers and poolings together."""
    kinds: dict[str, list[str]] = {}
    for name in expected:
        kinds.setdefault(_kind(name), []).append(name)
    for kind, names in kinds.items():
        each = {name: _difference(expected[name], found[name]) for name in names}
        worst = max(each, key=lambda name: each[name]["largest"])
        largest, least = each[worst]["largest"], min(one["cosine"] for one in each.values())
        mean, places = (float(np.mean([one[key] for one in each.values()])) for key in ("mean", "places"))
        most, least_cosine, least_places = GOALS[precision]
        most = max(most, COUNTED) if kind == COUNTS else most
        close = largest <= most and least >= least_cosine
        if kind == THRESHOLDS:
            close = mean >= MEAN_COSINE[precision]
        yield judged(
            f"{what}: {len(names)} {kind}" if len(names) > 1 else f"{what}: {kind}",
            f"{largest:.1e} ({worst}), cosine {least:.6f} (mean {mean:.6f}), places {100 * places:.1f} %",
            goal_of(precision, kind),
            close and places >= least_places,
            largest_difference=largest,
            least_cosine=least,
            mean_cosine=mean,
            same_places=places,
            each=each,
        )


def goal_of(precision: str, kind: str = "") -> str:
    """The goal in words."""
    most, cosine, places = GOALS[precision]
    if kind == THRESHOLDS:
        close = f"mean cosine >= {MEAN_COSINE[precision]:g}"
    else:
        close = (
            f"cosine >= {cosine:g}"
            if most == 1
            else f"<= {max(most, COUNTED) if kind == COUNTS else most:.0e}"
        )
    return f"{close}, places >= {100 * places:.0f} %"


def _difference(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Largest difference of a value, least and mean cosine of a row, share of the places of all top 7 with one row."""
    cosines = np.einsum("nd,nd->n", expected.astype(np.float64), found)
    return {
        "largest": float(np.abs(expected - found).max()),
        "cosine": float(cosines.min()),
        "mean": float(cosines.mean()),
        "places": float(np.mean(_ranks(expected) == _ranks(found))),
    }


def _ranks(rows: np.ndarray) -> np.ndarray:
    """(n, 7) numbers of each row's nearest others, by float64 products, ties to the lower number."""
    scores = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
