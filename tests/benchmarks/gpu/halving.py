"""Batches halved when memory runs out, forced: on a card by a small cap, on a CPU by a fake of the device's boundary."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch

from features.dumps import open_dump
from features.extraction import extract
from features.extraction.engine import Engine
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
        if task.on_card:
            torch.cuda.reset_peak_memory_stats()
        tried[name] = _extracted(task, configuration, limited=name == "capped")
        if task.on_card and name == "whole":
            peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
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


def _extracted(task: Task, configuration, *, limited: bool) -> list[tuple[int, bool]]:
    """(images, whether they fitted) of every batch that holds pictures."""
    maps, tried = Engine.maps, []

    def watched(self: Engine, pixels: np.ndarray, **options: bool) -> list[torch.Tensor]:
        try:
            if limited and not task.on_card and len(pixels) > MOST:
                raise torch.OutOfMemoryError("out of memory, says the fake of the device")
            made = maps(self, pixels, **options)
        except torch.OutOfMemoryError:
            tried.append((len(pixels), False))
            raise
        if pixels.any():  # not the blank batch that tells the widths
            tried.append((len(pixels), True))
        return made

    with mock.patch.object(Engine, "maps", watched):
        extract(configuration, device=task.device, splits=("gallery",), progress=False)
    return tried
