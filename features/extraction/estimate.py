"""What an extraction would compute, said before it starts: images, bytes needed and free, hours."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from competition.configuration import SIMULATED, Backbone, Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from features.dumps.disk import Disk
from features.dumps.layout import Target
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine, dimensions
from features.extraction.status import Standing, groups_for

SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PlannedPass:
    """One backbone over one split: the dumps still to be made, `images` still to be run, of `total`."""

    backbone: Backbone
    split: str
    targets: tuple[Target, ...]
    images: int
    total: int
    bytes_needed: int
    seconds: float
    groups: tuple[DumpGroup, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Plan:
    """externals: (name, split, images) of the descriptors made elsewhere that are to be copied."""

    passes: tuple[PlannedPass, ...]
    bytes_needed: int
    bytes_free: int
    seconds: float
    externals: tuple[tuple[str, str, int], ...] = ()

    @property
    def images(self) -> int:
        return sum(planned.images for planned in self.passes)

    def sentence(self) -> str:
        if not self.passes and not self.externals:
            return "every dump is there already: nothing to extract"
        named = "; ".join(
            [
                f"{p.backbone.name} on {p.split}: {p.images} {_what(p.split)}, {len(p.targets)} dumps"
                for p in self.passes
            ]
            + [f"{name} on {split}: {rows} rows to copy" for name, split, rows in self.externals]
        )
        return (
            f"to extract: {named}; {_gib(self.bytes_needed)} needed, {_gib(self.bytes_free)} free; "
            f"about {self.seconds / 3600:.2f} hours"
        )


def _what(split: str) -> str:
    return "photos of gallery images" if split == SIMULATED else "images"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def plan_pass(engine: Engine, split: str, images: ImageSet, found: Sequence[Standing]) -> PlannedPass:
    """The groups of one backbone and split, with what is left of them, `seconds` not yet measured. found:
    every target, complete ones too.
    """
    left = [standing.target for standing in found if not standing.complete]
    widths = dict(zip((target.path for target in left), dimensions(engine, left), strict=True))
    groups = groups_for(found, widths, images, engine.settings.window_rows, Disk())
    missing = np.zeros(len(images), dtype=bool)
    damaged = {standing.target.path for standing in found if standing.damaged(images)}
    for group in groups:
        new = _not_taken_over(group, any(target.path in damaged for target in group.targets))
        for number in np.flatnonzero(group.peek()):
            new[group.window(int(number)).start : group.window(int(number)).stop] = False
        missing |= new
    needed = sum(max(0, group.bytes_needed - group.bytes_there()) for group in groups)
    count = int(missing.sum())
    return PlannedPass(
        engine.backbone,
        split,
        tuple(left),
        count,
        len(images),
        needed,
        0.0,
        tuple(groups),
    )


def _not_taken_over(group: DumpGroup, damaged: bool) -> np.ndarray:
    """(n,) bool: images that no earlier row stands for. damaged: rows are read to see whether they are whole."""
    if group.earlier is None:
        return np.ones(len(group.ids), dtype=bool)
    new = group.earlier.row_of < 0
    if damaged:
        for number in range(len(group.done)):
            rows = group.window(number)
            new[rows.start : rows.stop] = True
            new[rows.start + group.earlier.take(rows).places] = False
    return new


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` lies or will lie."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_small_disk(plan: Plan, configuration: Configuration) -> None:
    """Top7Error unless the bytes needed, and a little more, are free."""
    if plan.bytes_needed + SPARE_BYTES > plan.bytes_free and (plan.passes or plan.externals):
        raise Top7Error(
            f"{configuration.competition.work}: the dumps need {_gib(plan.bytes_needed)} (and "
            f"{_gib(SPARE_BYTES)} to spare), {_gib(plan.bytes_free)} are free there: make room or choose "
            "another folder with --work"
        )
