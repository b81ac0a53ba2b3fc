"""One pass: a backbone over the images of a split, all missing dumps filled at once, resumable at any instant."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from competition.images import ImageSet
from competition.progress import Progress
from features.extraction.batching import StartedWindow, Window
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine
from features.extraction.extraction_report import ExtractionReport

COMMIT_EVERY_S = 15.0
WAITING_SHARE = 0.1


def run_pass(
    engine: Engine,
    split: str,
    images: ImageSet,
    group: DumpGroup,
    report: ExtractionReport,
    *,
    elsewhere: Iterator[Window] | None = None,
    progress: bool = True,
) -> str:
    """Compute the windows that the journal lacks and give the dumps their final names; `report` is added to.

    elsewhere: the windows, in any order, where other processes or machines compute them. Returns what bounded the rate,
    in words; "" where no image was run.
    """
    waited_s, taken_s, limit = 0.0, 0.0, ""
    behind: deque[Future[None]] = deque()

    def write(window: Window) -> None:
        group.write_window(window)
        group.commit(every_s=COMMIT_EVERY_S)

    with group:
        row_bytes = sum(file.row_bytes for file in group.written.values())
        done, name = len(images) - sum(map(len, group.windows_left())), engine.backbone.name
        bar = Progress(
            total=len(images), initial=done, unit="img", shown=progress, delay=0, desc=f"{name} {split}"
        )
        # after an error the pool still writes what is computed, and the group commits it
        with bar, ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
            for window in elsewhere or computed_here(engine, images, group, bar):
                rows, needed = len(window.rows), len(window.pictures)
                report.images += needed
                report.bytes_written += rows * row_bytes
                if needed:  # rows taken over wait for no image
                    waited_s, taken_s = waited_s + window.waited_s, taken_s + window.taken_s
                    limit = limit_named(waited_s / max(1e-9, taken_s))
                    bar.set_postfix_str(limit, refresh=False)
                bar.update(rows - (needed if elsewhere is None else 0))
                behind.append(pool.submit(write, window))
                if len(behind) > 2:
                    behind.popleft().result()
            for future in behind:
                future.result()
            group.finish_group()
    return limit


def computed_here(engine: Engine, images: ImageSet, group: DumpGroup, bar: Progress) -> Iterator[Window]:
    """Compute windows in this process, decoding ahead; images with the content of a finished row are not run again.

    The last batches of a window are under way while the next one is read, so that no core waits.
    """
    known = group.known_contents()
    ahead, windows = itertools.tee(group.pending())
    behind: StartedWindow | None = None
    with closing(engine.pictures(images, (row for _, needed in ahead for row in needed))) as pictures:
        for rows, needed in windows:
            started = StartedWindow(engine, group.targets, rows)
            started.read(pictures, needed, known, bar.update)
            if behind is not None:
                yield behind.finish()
                group.add_contents(behind.window, known)
            behind = started
        if behind is not None:
            yield behind.finish()


def limit_named(waiting_share: float) -> str:
    """What bounds the rate, by the share of the time that the network waits for decoded images."""
    share = f"{100 * waiting_share:.0f} % of the time waiting for images"
    return f"limit: {'decoding' if waiting_share > WAITING_SHARE else 'network'}, {share}"
