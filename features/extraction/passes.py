"""One pass: a backbone over the images of a split, all missing dumps filled at once, resumable at any
instant.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from competition.images import ImageSet
from features.extraction.disk import Disk
from features.extraction.engine import Engine, dimensions
from features.extraction.partial import Group
from features.extraction.reading import read_ahead
from features.extraction.targets import Target
from features.extraction.windows import Window, compute_window

COMMIT_EVERY_S = 15.0


@dataclass
class PassReport:
    images: int = 0
    bytes_written: int = 0


def run_pass(
    engine: Engine,
    split: str,
    images: ImageSet,
    targets: Sequence[Target],
    *,
    disk: Disk | None = None,
    progress: bool = True,
) -> PassReport:
    """Compute the windows that the journal lacks and give the dumps their final names."""
    disk = disk or Disk()
    widths = dimensions(engine, targets)
    group = Group(targets, widths, images.ids, engine.settings.window_rows, disk)
    if said := group.start():
        print(said, file=sys.stderr)
    left = [number for number in range(len(group.done)) if not group.done[number]]
    rows = [row for number in left for row in group.window(number)]
    report = PassReport(images=len(rows))
    settings, last = asdict(engine.settings), time.monotonic()
    pictures = read_ahead(
        images, rows, engine.sizings(), workers=engine.settings.threads, ahead=4 * engine.settings.batch_rows
    )
    bar = tqdm(
        total=len(images),
        initial=len(images) - len(rows),
        desc=f"{engine.backbone.name} {split}",
        unit="img",
        disable=not progress,
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 15,
    )
    try:
        for number in left:
            window = compute_window(engine, targets, widths, group.window(number), pictures, bar.update)
            group.write(number, window.descriptors, _records(window, group.record_type), window.unreadable)
            report.bytes_written += sum(rows.nbytes for rows in window.descriptors)
            if time.monotonic() - last >= COMMIT_EVERY_S:
                group.commit(settings)
                last = time.monotonic()
        group.commit(settings)
        group.finish()
    finally:
        bar.close()
        pictures.close()
        disk.close()
    return report


def _records(window: Window, record_type: np.dtype) -> np.ndarray:
    records = np.zeros(len(window.rows), dtype=record_type)
    for place, (size_bytes, mtime_ns, sha256) in enumerate(window.pictures):
        records["size_bytes"][place], records["mtime_ns"][place] = size_bytes, mtime_ns
        records["sha256"][place] = np.frombuffer(sha256, dtype=np.uint8)
    records["norms"] = window.norms
    return records
