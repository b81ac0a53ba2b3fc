"""Extraction beside the bare forward pass and the bare decoding, of 1000-px JPEGs that are made here.

Decoding runs beside a card, so the bound is the smaller of both rates; on a CPU both share the cores, and it is
1 / (t_forward + t_decode). Networks have random weights; the descriptors are as good as any for the clock.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from competition.configuration import Backbone
from competition.images import ImageSet, list_images
from features.dumps.layout import backbone_recipe
from features.extraction.engine import Engine
from features.extraction.settings import fixed_settings, settings_path
from tests.benchmarks.extraction_speed import POOLINGS, Extraction, bare_decode, seconds
from tests.benchmarks.gpu.made_up import LAYERS, configured, pictures, random
from tests.benchmarks.gpu.rows import Row, Task, rate, skipped

GOAL = 0.9  # of the bound
ROUNDS = 2
NVJPEG_IMAGES = 512
NETWORKS = (  # model, layers, poolings
    ("vgg16", LAYERS, POOLINGS),
    ("resnet50", (1, 2, 3, 4), POOLINGS),
    ("vit_small_patch16_224", (11,), ("gem", "cls")),
)
SMALL_NETWORKS = (
    ("top7_vgg16_quarter", (4,), POOLINGS),
    ("test_resnet", (3,), POOLINGS),
    ("test_vit", (3,), ("gem", "cls")),
)


def rows(task: Task) -> Iterator[Row]:
    """A row for each network and size, after nvJPEG's."""
    count, sizes = (12, (64, 96)) if task.small else (8192, (224, 384))
    images = list_images(pictures(task.folder / "images", count, 1000, distinct=min(count, 64)))
    few = list_images(pictures(task.folder / "few", min(count, 512), 1000, distinct=4))
    yield _nvjpeg(task, images)
    for side in sizes:
        for model, layers, poolings in SMALL_NETWORKS if task.small else NETWORKS:
            backbone = random(model, layers, side, poolings)
            if task.left_s() < (25 if task.on_card else 5):
                yield skipped(f"{model}, {side} px", "no time left for it", _goal(task))
                continue
            yield _beside_the_bounds(task, backbone, images, few)


def _goal(task: Task) -> str:
    return f">= {GOAL} of {'the smaller' if task.on_card else '1 / (t_forward + t_decode)'}"


def _beside_the_bounds(task: Task, backbone: Backbone, images: ImageSet, few: ImageSet) -> Row:
    work = task.folder / backbone.name
    configuration = configured(task.folder / "images", work, backbone)
    path = settings_path(work, backbone, backbone_recipe(configuration, backbone))
    engine = Engine(backbone, fixed_settings(path, backbone, task.device))
    forward = _bare_forward(engine)
    Extraction(configured(task.folder / "few", work / "warm", backbone), task.device).run()
    extraction, found = Extraction(configuration, task.device), []
    for _ in range(ROUNDS):
        decode_s, _ = seconds(lambda: bare_decode(images, engine.sizings, engine.decode_threads))
        extraction_s, _ = extraction.run()
        found.append((1 / forward(0.5), decode_s / len(images), extraction_s / len(images)))
    shutil.rmtree(work)
    times = np.median(found, axis=0)
    bounds = (
        np.max(np.array(found)[:, :2], axis=1) if task.on_card else np.sum(np.array(found)[:, :2], axis=1)
    )
    share = float(np.median(bounds / np.array(found)[:, 2]))
    forward_s, decode_s, extraction_s = (float(1 / value) for value in times)
    return rate(
        task,
        f"{backbone.name}, {backbone.image_size} px, random weights, {len(images)} images",
        f"{extraction_s:.0f} images/s; forward {forward_s:.0f}, decode {decode_s:.0f} "
        f"({engine.decode_threads} threads): {share:.2f} of the bound",
        _goal(task),
        share >= GOAL,
        share_of_bound=share,
        images_s=extraction_s,
        forward_images_s=forward_s,
        decode_images_s=decode_s,
        decode_threads=engine.decode_threads,
        batch_rows=engine.settings.batch_rows,
        precision=engine.settings.precision,
    )


def _bare_forward(engine: Engine) -> Callable[[float], float]:
    """A function of seconds that gives images/s of the network alone, its inputs on the device, in the engine's
    precision, layout and batch."""
    side, batch = engine.backbone.image_size, engine.settings.batch_rows
    images = torch.randn(batch, 3, side, side, device=engine.device).contiguous(memory_format=engine.format)
    precision = getattr(torch, engine.settings.precision)

    def passes(least_s: float) -> float:
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < least_s or not done:
            with (
                torch.inference_mode(),
                torch.autocast(engine.device.type, precision, enabled=precision != torch.float32),
            ):
                engine.network.forward(images)
            if engine.device.type == "cuda":
                torch.cuda.synchronize()
            done += batch
        return done / (time.perf_counter() - begin)

    passes(1.0 if engine.device.type == "cuda" else 0.0)  # warm
    return passes


def _nvjpeg(task: Task, images: ImageSet) -> Row:
    """The rate of nvJPEG alone, which the project does not use: what could be won where decoding is the limit."""
    what = "nvJPEG, the 1000-px JPEGs at full size"
    if not task.on_card:
        return skipped(what, "needs a card")
    from torchvision.io import decode_jpeg, read_file

    data = [read_file(str(path)) for path in images.paths[:NVJPEG_IMAGES]]
    try:
        decode_jpeg(data[:32], device=task.device)
    except RuntimeError as error:
        return skipped(what, f"torchvision has no nvJPEG here: {str(error).splitlines()[0]:.80}")

    def decode() -> None:
        for start in range(0, len(data), 64):
            decode_jpeg(data[start : start + 64], device=task.device)
        torch.cuda.synchronize()

    taken_s, _ = seconds(decode)
    return Row(what, f"{len(data) / taken_s:.0f} images/s", values={"images_s": len(data) / taken_s})
