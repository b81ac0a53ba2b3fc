"""Batches halved when memory runs out, forced: on a card by a small cap, on a CPU by a fake of the device's boundary."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import torch

from competition.configuration import Configuration
from features.dumps import open_dump
from features.dumps.layout import Target
from features.extraction import extract
from features.extraction.engine import Batch, Engine
from tests.benchmarks.gpu.made_up import configured, embedded, pictures, preset
from tests.benchmarks.gpu.rows import Row, Task, judged

MOST = 4  # images that the fake takes
CAP = 0.5  # of the memory that the first batch size takes


def rows(task: Task) -> Iterator[Row]:
    """The sizes tried, and the descriptors beside those of a run without a cap."""
    side, batch = (64, 16) if task.small else (224, 64)
    images = pictures(task.folder / "images", 4 * batch, side)
    backbone = embedded(side, poolings=("spoc", "gem", "rmac"), parts=False)
    found, tried = {}, {}
    for name in ("whole", "capped"):
        configuration = configured(images, task.folder / name, backbone)
        preset(configuration, backbone, task.device, batch_rows=batch)
        tried[name] = _extracted(task, configuration, limited=name == "capped")
        if task.on_card and name == "whole":
            peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
            gc.collect()  # the engine
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(CAP * peak / total)
        dumps = sorted((configuration.competition.work / "dumps" / "gallery").glob("embedded*[0-9a-f].npy"))
        found[name] = [np.array(open_dump(path).descriptors) for path in dumps]
    sizes = [size for size, _ in tried["capped"]]
    smaller = [size for size in sizes if size < batch]
    failed = [size for size, fits in tried["capped"] if not fits]
    how = f"a cap of {CAP:.0%} of what it took" if task.on_card else f"a fake device that holds {MOST} images"
    yield judged(
        f"batches of {batch} under {how}",
        f"{len(failed)} of {len(sizes)} batches failed; sizes {', '.join(map(str, dict.fromkeys(sizes)))}",
        "fails, then smaller batches to the end",
        bool(failed) and bool(smaller) and tried["capped"][-1][1] and max(failed) == batch,
        tried=tried["capped"],
        failed=failed,
    )
    cosine = min(
        float(np.einsum("nd,nd->n", a, b).min()) for a, b in zip(found["whole"], found["capped"], strict=True)
    )
    yield judged(
        "descriptors beside those without a cap",
        f"cosine {cosine:.6f}",
        "cosine >= 0.999",
        cosine >= 0.999,
        cosine=cosine,
    )


def _extracted(task: Task, configuration: Configuration, *, limited: bool) -> list[tuple[int, bool]]:
    """(images, whether they fitted) of every batch that holds pictures, in the order in which they ended."""
    maps, describe, tried = Engine.maps, Engine.describe, []

    def full(self: Engine, pixels: np.ndarray, **options: bool) -> list[torch.Tensor]:
        if len(pixels) > MOST:
            raise torch.OutOfMemoryError("out of memory, says the fake of the device")
        return maps(self, pixels, **options)

    def watched(self: Engine, views: Sequence[np.ndarray], targets: Sequence[Target]) -> Batch:
        fits = False
        try:
            found = describe(self, views, targets)
            fits = True
            return found
        finally:
            if views[0].any():  # not the blank batch that tells the widths
                tried.append((len(views[0]), fits))

    with mock.patch.object(Engine, "describe", watched):
        with mock.patch.object(Engine, "maps", full if limited and not task.on_card else maps):
            extract(configuration, device=task.device, splits=("gallery",), progress=False)
    return tried
