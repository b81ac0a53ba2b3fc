"""Compiled networks: their descriptors beside the CPU's, and how much faster they are; last, for the compiler is slow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from features.extraction.engine import Engine
from features.extraction.engine_choice import compiling_helps
from features.extraction.settings import fixed_settings
from tests.benchmarks.extraction_speed import POOLINGS
from tests.benchmarks.gpu.agreement import compared, goal_of
from tests.benchmarks.gpu.made_up import LAYERS, networks, random
from tests.benchmarks.gpu.rows import Row, Task, skipped

LEAST_S = 45.0  # of compiling a network


def rows(task: Task) -> Iterator[Row]:
    """A row for each kind of descriptor of each network, then the rates of VGG16."""
    if not task.on_card:
        reason = "a pass on a CPU is never compiled, and the compiler for a CPU is another one"
        yield skipped("compiled networks", reason, goal_of("float16"))
        return
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(task.folder / "inductor")
    variants = [(network, "float16", True) for network in networks(224, small=task.small)]
    yield from compared(task, variants, LEAST_S)
    backbone = random("vgg16", LAYERS, 224, POOLINGS)
    if task.left_s() < LEAST_S:
        yield skipped("vgg16, 224 px, compiled", "no time left for it")
        return
    helps, why = compiling_helps(
        Engine(backbone, fixed_settings(Path("unused"), backbone, task.device, keep=False))
    )
    yield Row("vgg16, 224 px, compiled", why.removeprefix("vgg16: "), values={"compiled": helps})
