"""The engine of each backbone; on a GPU `torch.compile` is tried once, and kept where it is faster to the same maps.

Which of the two ran is part of the settings, fixed at the first run like the batch size: a later run on the same work
folder does not measure again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from competition.configuration import Backbone
from competition.messages import log
from features.extraction.engine import Engine
from features.extraction.settings import fixed_settings, keep_settings
from features.networks.fused_convolutions import largest_difference

COMPILED_FROM = 20_000  # images: fewer are done before the compiler is
WORTH = 1.05  # times as fast, or compiling is not worth its minutes
ROUNDS = 8
TOLERANCE = 1e-2  # of a layer's largest value: half precision rounds otherwise where operations are fused


def chosen_engine(
    backbone: Backbone, path: Path, device: str, images: int, *, threads: int | None, keep: bool
) -> Engine:
    """The engine of a backbone, whose settings lie at `path`, or are put there if `keep`; compiled for many images."""
    settings = fixed_settings(path, backbone, device, threads=threads, keep=keep)
    if images < COMPILED_FROM:
        return Engine(backbone, replace(settings, compiled=None))
    engine = Engine(backbone, settings)
    if device == "cuda" and settings.compiled is None:
        compiled, why = compiling_helps(engine)
        log.info(why)
        settings = replace(settings, compiled=compiled)
        if keep:
            keep_settings(path, settings)
        engine = Engine(backbone, settings)
    return engine


def compiling_helps(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> tuple[bool, str]:
    """Whether the network of `engine` is to be compiled, and why in one line; a failure is a reason, not an error."""
    backbone, rows = engine.backbone, engine.settings.batch_rows
    not_compiled = f"{backbone.name}: not compiled: "
    if backbone.resize == "keep":
        return False, f"{not_compiled}each of the images' many shapes would be compiled by itself"
    shape = (rows, backbone.image_size, backbone.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plain, plain_s = _timed(engine, pixels, clock)
    try:
        found, compiled_s = _timed(Engine(backbone, replace(engine.settings, compiled=True)), pixels, clock)
    except Exception as error:  # dynamo's, the compiler's and the device's own errors have no common root
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return False, f"{not_compiled}torch.compile fails here: {reason[:200]}"
    worst = largest_difference(plain, found)
    if not worst <= TOLERANCE:
        return False, f"{not_compiled}its maps would differ by {worst:.1e} of their largest value"
    return plain_s > WORTH * compiled_s, (
        f"{backbone.name}: {rows / compiled_s:.0f} images/s compiled, {rows / plain_s:.0f} as it is; the faster one is taken"
        f" if by {100 * (WORTH - 1):.0f} %"
    )


def _timed(engine: Engine, pixels: np.ndarray, clock: Callable[[], float]) -> tuple[list[Tensor], float]:
    """(maps of the batch, seconds a batch) after two passes that warm up."""

    def passes(count: int) -> list[Tensor]:
        for _ in range(count):
            maps = engine.maps(pixels)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        return maps

    passes(2)
    begun = clock()
    return passes(ROUNDS), (clock() - begun) / ROUNDS
