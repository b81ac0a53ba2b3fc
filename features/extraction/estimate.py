"""What an extraction would compute, printed before it starts: images, bytes needed and free, hours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import SIMULATED
from competition.durations import duration
from competition.errors import Top7Error
from competition.images import ImageSet
from features.dumps.disk import Disk
from features.dumps.layout import Target
from features.extraction.batching import compute_window
from features.extraction.decode_ahead import read_ahead
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine, dimensions
from features.extraction.learn_parts import PartTable, left_to_learn
from features.extraction.status import DumpStatus, groups_for

SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PlannedPass:
    """One backbone over one split: the dumps still to be made, `images` still to be run."""

    backbone: str
    split: str
    targets: tuple[Target, ...]
    groups: tuple[DumpGroup, ...]
    images: int
    bytes_needed: int
    seconds: float = 0.0


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
        named = "; ".join(
            [
                f"{p.backbone} on {p.split}: {p.images} {_what(p.split)}, {len(p.targets)} dumps"
                for p in self.passes
            ]
            + [f"{name} on {split}: {rows} rows to copy" for name, split, rows in self.externals]
        )
        parts = any(target.parts is not None for planned in self.passes for target in planned.targets)
        return (
            f"to extract: {named}; {_gib(self.bytes_needed)} needed, {_gib(self.bytes_free)} free; "
            f"about {duration(self.seconds)}{', and part detectors' if parts else ''}"
        )


def _what(split: str) -> str:
    return "photos of gallery images" if split == SIMULATED else "images"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def plan_pass(engine: Engine, split: str, images: ImageSet, found: Sequence[DumpStatus]) -> PlannedPass:
    """The groups of one backbone and split, with what is left of them. found: every target, complete ones too."""
    left = [status.target for status in found if not status.complete]
    widths = dict(zip((target.path for target in left), dimensions(engine, left), strict=True))
    groups = groups_for(found, widths, images, engine.settings.window_rows, Disk())
    missing = np.zeros(len(images), dtype=bool)
    damaged = {status.target.path for status in found if status.damaged(images)}
    for group in groups:
        new = _not_taken_over(group, any(target.path in damaged for target in group.targets))
        for number in np.flatnonzero(group.peek()):
            new[group.window(int(number)).start : group.window(int(number)).stop] = False
        missing |= new
    needed = sum(max(0, group.bytes_needed - group.bytes_there()) for group in groups)
    return PlannedPass(engine.backbone.name, split, tuple(left), tuple(groups), int(missing.sum()), needed)


def _not_taken_over(group: DumpGroup, damaged: bool) -> np.ndarray:
    """(n,) bool: images that have no earlier row. damaged: rows are read to see whether they are whole."""
    if group.earlier is None:
        return np.ones(len(group.ids), dtype=bool)
    new = group.earlier.row_of < 0
    if damaged:
        for number in range(len(group.done)):
            rows = group.window(number)
            new[rows.start : rows.stop] = True
            new[rows.start + group.earlier.take(rows).places] = False
    return new


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
    widths = dimensions(engine, pooled)
    a_round, most = engine.settings.batch_rows * engine.at_once, min(most, len(images))
    warm = range(a_round if most > a_round else 0)
    timed = range(len(warm), min(most, len(warm) + 2 * a_round))
    seconds = 0.0
    for rows in (warm, timed):
        start = clock()
        pictures = read_ahead(
            images,
            rows,
            engine.sizings(),
            workers=engine.decode_threads,
            ahead=4 * engine.settings.batch_rows,
        )
        compute_window(engine, pooled, widths, rows, pictures, rows)
        seconds = clock() - start
    return seconds / max(1, len(timed))


def seconds_of(
    passes: Sequence[PlannedPass], an_image_s: float, tables: Sequence[PartTable], jobs: int
) -> list[float]:
    """Seconds of each pass of one backbone; the forward passes to learn part detectors from count to the first."""
    seconds = [planned.images * an_image_s / jobs for planned in passes]
    for table in tables:
        seconds[0] += left_to_learn(table).passes * len(table.ids) * an_image_s
    return seconds


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` lies or will lie."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_small_disk(plan: Plan, folder: Path) -> None:
    """Top7Error unless the bytes needed, and a little more, are free in `folder`."""
    if plan.bytes_needed + SPARE_BYTES > plan.bytes_free and (plan.passes or plan.externals):
        raise Top7Error(
            f"{folder}: the dumps need {_gib(plan.bytes_needed)} (and {_gib(SPARE_BYTES)} to spare), "
            f"{_gib(plan.bytes_free)} are free there: make room or choose another folder with --work"
        )
