"""What an extraction would compute, printed before it starts: images, bytes needed and free, hours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import SIMULATED, Backbone
from competition.errors import Top7Error
from competition.images import ImageSet
from competition.messages import duration
from features.dumps.layout import Target
from features.extraction.batching import compute_window
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine
from features.extraction.status import LackingDump, group_for

SPARE_BYTES = 64 * 2**20


@dataclass
class PlannedPass:
    """One backbone over one split: the group of the dumps still to be made, `images` still to be run."""

    backbone: Backbone
    split: str
    group: DumpGroup
    images: int
    bytes_needed: int
    seconds: float = 0.0

    @property
    def targets(self) -> list[Target]:
        return self.group.targets


@dataclass(frozen=True)
class Plan:
    """externals: (name, split, images) of the descriptors made elsewhere that are to be copied."""

    passes: tuple[PlannedPass, ...]
    bytes_needed: int
    bytes_free: int
    externals: tuple[tuple[str, str, int], ...] = ()

    @property
    def images(self) -> int:
        return sum(planned.images for planned in self.passes)

    @property
    def seconds(self) -> float:
        return sum(planned.seconds for planned in self.passes)

    def sentence(self) -> str:
        """The plan in words."""
        if not self.passes and not self.externals:
            return "every dump is there already: nothing to extract"
        named = []
        for each in self.passes:
            what = "photos of gallery images" if each.split == SIMULATED else "images"
            named += [
                f"{each.backbone.name} on {each.split}: {each.images} {what}, {len(each.targets)} dumps"
            ]
        named += [f"{name} on {split}: {rows} rows to copy" for name, split, rows in self.externals]
        parts = any(target.parts is not None for planned in self.passes for target in planned.targets)
        return (
            f"to extract: {'; '.join(named)}; {_gib(self.bytes_needed)} needed, {_gib(self.bytes_free)} free; "
            f"about {duration(self.seconds)}{', and part detectors' if parts else ''}"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def plan_pass(engine: Engine, split: str, images: ImageSet, left: Sequence[LackingDump]) -> PlannedPass:
    """What is left of the dumps of one backbone and split that are not complete."""
    widths = dimensions(engine, [dump.target for dump in left])
    group = group_for(left, widths, images, engine.settings.window_rows)
    damaged = any(dump.damaged for dump in left)
    missing = np.ones(len(images), dtype=bool)
    if group.earlier is not None and not damaged:
        missing = ~group.earlier.there
    for number, finished in enumerate(group.peek()):
        rows = group.window(number)
        if finished:
            missing[rows.start : rows.stop] = False
        elif damaged and group.earlier is not None:  # the rows are read to see which are whole
            missing[group.earlier.whole(rows)] = False
    return PlannedPass(engine.backbone, split, group, int(missing.sum()), group.bytes_needed)


def seconds_an_image(
    engine: Engine,
    images: ImageSet,
    targets: Sequence[Target],
    most: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Time two batches for each thread, after one to warm up: decoding, forward pass, pooling of at most `most` images.

    Part detectors are left out: the progress line has them.
    """
    pooled = [target for target in targets if target.parts is None]
    a_round, most = engine.settings.batch_rows * engine.at_once, min(most, len(images))
    warm = range(a_round if most > a_round else 0)
    timed = range(len(warm), min(most, len(warm) + 2 * a_round))
    for rows in (warm, timed):
        start = clock()
        compute_window(engine, pooled, rows, engine.pictures(images, rows), rows)
        seconds = clock() - start
    return seconds / max(1, len(timed))


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` lies or will lie."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(at for at in (folder, *folder.parents) if at.exists())).free


def refuse_small_disk(plan: Plan, folder: Path) -> None:
    """Top7Error unless the bytes needed, and a little more, are free in `folder`."""
    if plan.bytes_needed + SPARE_BYTES > plan.bytes_free and (plan.passes or plan.externals):
        raise Top7Error(
            f"{folder}: the dumps need {_gib(plan.bytes_needed)} (and {_gib(SPARE_BYTES)} to spare), "
            f"{_gib(plan.bytes_free)} are free there: make room or choose another folder with --work"
        )


def dimensions(engine: Engine, targets: Sequence[Target]) -> list[int]:
    """The width D of each target, from one blank batch; part-detector targets have their largest dimension."""
    side = engine.backbone.image_size or 64
    pooled = [target for target in targets if target.parts is None]
    widths: Iterator[int] = iter(())
    if pooled:
        found = engine.describe([np.zeros((2, side, side, 3), dtype=np.uint8)], pooled)
        widths = (rows.shape[1] for rows in found.rows)
    return [next(widths) if target.parts is None else max(target.parts.dims) for target in targets]
