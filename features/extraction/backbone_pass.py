"""One pass: a backbone over the images of a split, all missing dumps filled at once, resumable at any instant."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

from competition.images import ImageSet
from competition.messages import log
from competition.progress import Progress
from features.extraction.batching import StartedWindow, Window
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine
from features.images.decode_ahead import Timed

COMMIT_EVERY_S = 15.0
WAITING_SHARE = 0.1


@dataclass
class PendingWindow:
    """A window to do, with the rows that must be computed."""

    number: int
    rows: range
    needed: list[int]


@dataclass
class Result:
    """A pending done; settings: those it was computed with; waited_s: how long of taken_s the network had no images."""

    pending: PendingWindow
    window: Window
    settings: dict
    waited_s: float = 0.0
    taken_s: float = 0.0


@dataclass
class PassReport:
    """limit: what bounded the rate, in words; "" where no image was run."""

    images: int = 0
    bytes_written: int = 0
    limit: str = ""


def run_pass(
    engine: Engine,
    split: str,
    images: ImageSet,
    group: DumpGroup,
    *,
    elsewhere: Callable[[Iterator[PendingWindow]], Iterator[Result]] | None = None,
    progress: bool = True,
) -> PassReport:
    """Compute the windows that the journal lacks and give the dumps their final names.

    elsewhere: computes windows in other processes or on other machines; results may come in any order.
    """
    group.start()
    report = PassReport()
    windows = pending_windows(group)
    bar = Progress(
        total=len(images),
        initial=len(images) - sum(len(rows) for _, rows in group.windows_left()),
        desc=f"{engine.backbone.name} {split}",
        unit="img",
        shown=progress,
        delay=0,
    )
    writer = _Writer(group)
    row_bytes = sum(file.row_bytes for file in group.written.values())
    waited_s = taken_s = 0.0
    try:
        here = elsewhere is None
        results = (
            elsewhere(windows)
            if elsewhere is not None
            else computed_here(engine, images, group, windows, bar)
        )
        for result in results:
            needed, rows = len(result.pending.needed), len(result.pending.rows)
            report.images += needed
            report.bytes_written += rows * row_bytes
            if needed:  # rows taken over wait for no image
                waited_s, taken_s = waited_s + result.waited_s, taken_s + result.taken_s
                report.limit = limit_named(waited_s / max(1e-9, taken_s))
                bar.set_postfix_str(report.limit, refresh=False)
            bar.update(rows - (needed if here else 0))
            writer.put(result)
        writer.close()
        group.finish_group()
    finally:
        writer.abandon()
        bar.close()
        group.disk.close()
    return report


def pending_windows(group: DumpGroup) -> Iterator[PendingWindow]:
    """The windows that the group lacks, in order, with the rows that it cannot take over."""
    for number, rows in group.windows_left():
        yield PendingWindow(number, rows, group.needed(rows))


def computed_here(
    engine: Engine, images: ImageSet, group: DumpGroup, windows: Iterator[PendingWindow], bar: Progress
) -> Iterator[Result]:
    """Compute windows in this process, decoding ahead; images with the content of a finished row are not run again.

    The last batches of a window are under way while the next one is read, so that no core waits.
    """
    known: dict[bytes, int] = {}
    for sha256, row in group.finished_contents():
        known.setdefault(sha256, row)
    ahead, windows = itertools.tee(windows)
    pictures = engine.pictures(images, (row for pending in ahead for row in pending.needed))
    timed = Timed(pictures)
    behind: tuple[PendingWindow, StartedWindow] | None = None
    began, waited_s = time.perf_counter(), 0.0
    try:
        for pending in itertools.chain(windows, [None]):
            started = None
            if pending is not None:
                started = StartedWindow(engine, group.targets, group.widths, pending.rows)
                started.read(timed, pending.needed, known, bar.update)
            if behind is not None:
                before, window = behind[0], behind[1].finish()
                taken_s = time.perf_counter() - began
                yield Result(before, window, asdict(engine.settings), timed.waited_s - waited_s, taken_s)
                for sha256, row in group.contents(window, before.needed):
                    known.setdefault(sha256, row)
                began, waited_s = time.perf_counter(), timed.waited_s
            if pending is not None and started is not None:
                behind = pending, started
    finally:
        pictures.close()


def limit_named(waiting_share: float) -> str:
    """What bounds the rate, by the share of the time that the network waits for decoded images."""
    share = f"{100 * waiting_share:.0f} % of the time waiting for images"
    return f"limit: {'decoding' if waiting_share > WAITING_SHARE else 'network'}, {share}"


class _Writer:
    """Writes results in a thread of its own, at most two behind, and commits every few seconds."""

    def __init__(self, group: DumpGroup) -> None:
        self.group = group
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.behind: list[Future] = []

    def put(self, result: Result) -> None:
        """Write a result soon; waits where more than two are left to write."""
        self.behind.append(self.pool.submit(self._write, result))
        while len(self.behind) > 2:
            self.behind.pop(0).result()

    def _write(self, result: Result) -> None:
        self.group.write_window(result.pending.number, result.window, result.settings)
        self.group.commit(every_s=COMMIT_EVERY_S)

    def close(self) -> None:
        """Wait for everything and commit it."""
        while self.behind:
            self.behind.pop(0).result()
        self.pool.submit(self.group.commit).result()

    def abandon(self) -> None:
        """After an error elsewhere: write and commit what was computed; nothing if all is closed already."""
        try:
            if self.behind:
                self.close()
        except Exception as error:  # the first error is on its way already
            log.warning(f"not everything computed could be kept: {error}")
        self.pool.shutdown(wait=True, cancel_futures=True)
