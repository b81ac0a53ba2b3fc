"""What an extraction would compute, said before it starts: images, bytes needed and free, hours."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from competition.configuration import Backbone, Configuration
from competition.errors import Top7Error
from competition.images import ImageSet
from features.dumps import beside, read_sidecar
from features.extraction.disk import Disk
from features.extraction.engine import Engine, dimensions
from features.extraction.partial import Group
from features.extraction.reading import read_ahead
from features.extraction.targets import Target
from features.extraction.windows import compute_window

SPARE_BYTES = 64 * 2**20
TIMED_BATCHES = 3


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


@dataclass(frozen=True)
class Plan:
    passes: tuple[PlannedPass, ...]
    bytes_needed: int
    bytes_free: int
    seconds: float

    @property
    def images(self) -> int:
        return sum(planned.images for planned in self.passes)

    def sentence(self) -> str:
        if not self.passes:
            return "every dump is there already: nothing to extract"
        named = "; ".join(
            f"{p.backbone.name} on {p.split}: {p.images} images, {len(p.targets)} dumps" for p in self.passes
        )
        return (
            f"to extract: {named}; {_gib(self.bytes_needed)} needed, {_gib(self.bytes_free)} free; "
            f"about {self.seconds / 3600:.2f} hours"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def is_complete(target: Target, images: ImageSet) -> bool:
    """Whether the dump is there, whole in size and of these ids. Top7Error: its sidecar is damaged."""
    if not beside(target.path, ".json").exists() or not target.path.exists():
        return False
    sidecar = read_sidecar(target.path)
    rows, width = sidecar["shape"]
    return sidecar["ids"] == list(images.ids) and target.path.stat().st_size >= target.item_bytes * rows * width


def missing_targets(targets: Sequence[Target], images: ImageSet) -> list[Target]:
    return [target for target in targets if not is_complete(target, images)]


def plan_pass(
    engine: Engine, split: str, images: ImageSet, targets: Sequence[Target], *, seconds_an_image: float
) -> PlannedPass:
    pooled = [target for target in targets if target.parts is None]
    widths = dict(zip([t.path for t in pooled], dimensions(engine, pooled) if pooled else []))
    all_widths = [widths.get(target.path) or max(target.parts.dims) for target in targets]
    group = Group(targets, all_widths, images.ids, engine.settings.window_rows, Disk())
    done = group.peek()
    left = sum(len(group.window(number)) for number in range(len(done)) if not done[number])
    allocated = sum(
        group.partial(target).stat().st_size for target in targets if group.partial(target).exists()
    )
    return PlannedPass(
        engine.backbone,
        split,
        tuple(targets),
        left,
        len(images),
        max(0, group.bytes_needed - allocated),
        left * seconds_an_image,
    )


def seconds_an_image(
    engine: Engine,
    images: ImageSet,
    targets: Sequence[Target],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measured on the first images: decode, forward and pooling of a few batches after a warm-up."""
    pooled = [target for target in targets if target.parts is None]
    if not pooled:
        return 0.0
    widths, rows = dimensions(engine, pooled), engine.settings.batch_rows
    timed = min(len(images), rows * TIMED_BATCHES)
    pictures = read_ahead(
        images, range(timed), engine.sizings(), workers=engine.settings.threads, ahead=4 * rows
    )
    start = clock()
    compute_window(engine, pooled, widths, range(timed), pictures)
    return (clock() - start) / timed


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` lies or will lie."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_small_disk(plan: Plan, configuration: Configuration) -> None:
    """Top7Error unless the bytes needed, and a little more, are free."""
    if plan.bytes_needed + SPARE_BYTES > plan.bytes_free and plan.passes:
        raise Top7Error(
            f"{configuration.competition.work}: the dumps need {_gib(plan.bytes_needed)} (and "
            f"{_gib(SPARE_BYTES)} to spare), {_gib(plan.bytes_free)} are free there: make room or choose "
            "another folder with --work"
        )
