"""Where the time of an extraction goes: what the network waits for, and the operations that take most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from features.dumps.layout import configured_targets
from features.extraction import extract
from features.extraction.engine import Engine
from features.extraction.settings import fixed_settings
from tests.benchmarks.extraction_speed import POOLINGS
from tests.benchmarks.gpu.made_up import LAYERS, configured, embedded, pictures, random
from tests.benchmarks.gpu.rows import Row, Task

SHOWN = 8
BATCHES = 4


def rows(task: Task) -> Iterator[Row]:
    """One row of an extraction as a whole, then one an operation."""
    side, count = (64, 48) if task.small else (224, 2048)
    images = pictures(task.folder / "images", count, 1000 if not task.small else 256, distinct=32)
    backbone = (
        embedded(side, poolings=POOLINGS, parts=False)
        if task.small
        else random("vgg16", LAYERS, side, POOLINGS)
    )
    configuration = configured(images, task.folder / "work", backbone)
    report = extract(configuration, device=task.device, splits=("gallery",), progress=False)
    limit = report.limits[0][-1]
    yield Row(
        f"extraction of {backbone.name}, {count} images",
        limit,
        values={"limit": limit, "seconds": report.seconds},
    )
    engine = Engine(backbone, fixed_settings(Path("unused"), backbone, task.device, keep=False))
    targets = configured_targets(configuration, backbone, task.folder)
    shape = (engine.settings.batch_rows, side, side, 3)
    pixels = [np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)]
    engine.describe(pixels, targets)  # warm
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if task.on_card else [])]
    with profile(activities=activities) as profiled:
        for _ in range(BATCHES):
            engine.describe(pixels, targets)
        if task.on_card:
            torch.cuda.synchronize()
    events = profiled.key_averages()
    if task.on_card:  # kernels alone: operations count them once more
        events = [event for event in events if event.device_type == DeviceType.CUDA]
    key = "self_device_time_total" if task.on_card else "self_cpu_time_total"
    found = [(getattr(event, key), event.key, event.count) for event in events]
    total = max(1e-9, sum(taken for taken, _, _ in found))
    for taken, name, calls in sorted(found, reverse=True)[:SHOWN]:
        yield Row(
            f"of {BATCHES} batches of {shape[0]}: {name:.60}",
            f"{100 * taken / total:.1f} %, {taken / 1000:.1f} ms in {calls} calls",
            values={"share": taken / total, "ms": taken / 1000, "calls": calls},
        )
