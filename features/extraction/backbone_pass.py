"""One pass: a backbone over the images of a split, all missing dumps filled at once, resumable at any instant."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

from competition.images import ImageSet
from competition.messages import log
from competition.progress import Progress
from features.dumps.layout import Target
from features.extraction.batching import StartedWindow, Window
from features.extraction.decode_ahead import Timed, read_ahead
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine

COMMIT_EVERY_S = 15.0
WAITING_SHARE = 0.1


@dataclass
class PendingWindow:
    """A window to do: its rows that must be computed, and the groups that take its results."""

    number: int
    rows: range
    needed: list[int]
    groups: list[DumpGroup]


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
    groups: Sequence[DumpGroup],
    *,
    elsewhere: Callable[[Iterator[PendingWindow]], Iterator[Result]] | None = None,
    progress: bool = True,
) -> PassReport:
    """Compute the windows that the journals lack and give the dumps their final names.

    elsewhere: computes windows in other processes or on other machines; results may come in any order.
    """
    for group in groups:
        group.start()
    targets, widths = columns_of(groups)
    report = PassReport()
    windows = pending_windows(groups)
    done = sum(len(groups[0].window(number)) for number in finished_windows(groups))
    bar = Progress(
        total=len(images),
        initial=done,
        desc=f"{engine.backbone.name} {split}",
        unit="img",
        shown=progress,
        delay=0,
    )
    writer = _Writer({target.path.name: column for column, target in enumerate(targets)}, report)
    waited_s = taken_s = 0.0
    try:
        here = elsewhere is None
        results = (
            elsewhere(windows)
            if elsewhere is not None
            else computed_here(engine, images, targets, widths, groups, windows, bar)
        )
        for result in results:
            report.images += len(result.pending.needed)
            if result.pending.needed:  # rows taken over wait for no image
                waited_s, taken_s = waited_s + result.waited_s, taken_s + result.taken_s
                report.limit = limit_named(waited_s / max(1e-9, taken_s))
                bar.set_postfix_str(report.limit, refresh=False)
            bar.update(len(result.pending.rows) - (len(result.pending.needed) if here else 0))
            writer.put(result)
        writer.close()
        for group in groups:
            group.finish_group()
    finally:
        writer.abandon()
        bar.close()
        for group in groups:
            group.disk.close()
    return report


def columns_of(groups: Sequence[DumpGroup]) -> tuple[list[Target], list[int]]:
    """The targets that a pass computes, and their widths, in one order."""
    pairs = [(target, group.files[target.path.name].shape[1]) for group in groups for target in group.targets]
    return [target for target, _ in pairs], [width for _, width in pairs]


def finished_windows(groups: Sequence[DumpGroup]) -> list[int]:
    """The windows that no group lacks."""
    return [number for number in range(len(groups[0].done)) if all(group.done[number] for group in groups)]


def pending_windows(groups: Sequence[DumpGroup]) -> Iterator[PendingWindow]:
    """The windows that some group lacks, in order, with the rows that no group can take over."""
    for number in range(len(groups[0].done)):
        lacking = [group for group in groups if not group.done[number]]
        if not lacking:
            continue
        rows = lacking[0].window(number)
        needed: set[int] = set()
        for group in lacking:
            if group.earlier is None:
                needed.update(rows)
            else:
                taken = set((group.earlier.take(rows).places + rows.start).tolist())
                needed.update(row for row in rows if row not in taken)
        yield PendingWindow(number, rows, sorted(needed), lacking)


def computed_here(
    engine: Engine,
    images: ImageSet,
    targets: Sequence[Target],
    widths: Sequence[int],
    groups: Sequence[DumpGroup],
    windows: Iterator[PendingWindow],
    bar: Progress,
) -> Iterator[Result]:
    """Compute windows in this process, decoding ahead; images with the content of a finished row are not run again.

    The last batches of a window are under way while the next one is read, so that no core waits.
    """
    known: dict[bytes, int] = {}
    for number in finished_windows(groups):
        for _, sha256, row in groups[0].known_contents(number):
            known.setdefault(sha256, row)
    ahead, windows = itertools.tee(windows)
    pictures = read_ahead(
        images,
        (row for pending in ahead for row in pending.needed),
        engine.sizings(),
        workers=engine.decode_threads,
        ahead=max(2 * engine.decode_threads, 4 * engine.settings.batch_rows),
    )
    timed = Timed(pictures)
    behind: tuple[PendingWindow, StartedWindow] | None = None
    began, waited_s = time.perf_counter(), 0.0
    try:
        for pending in itertools.chain(windows, [None]):
            started = None
            if pending is not None:
                started = StartedWindow(engine, targets, widths, pending.rows)
                started.read(timed, pending.needed, known, bar.update)
            if behind is not None:
                before, window = behind[0], behind[1].finish()
                taken_s = time.perf_counter() - began
                yield Result(before, window, asdict(engine.settings), timed.waited_s - waited_s, taken_s)
                for sha256, row in _finished_contents(before, window):
                    known.setdefault(sha256, row)
                began, waited_s = time.perf_counter(), timed.waited_s
            if pending is not None and started is not None:
                behind = pending, started
    finally:
        pictures.close()


def _finished_contents(pending: PendingWindow, window: Window) -> Iterator[tuple[bytes, int]]:
    """(content hash, row) of the images that a pending computed, and of those that all its groups took over."""
    for place in window.computed:
        yield window.pictures[place][2], window.rows.start + place
    needed, earlier = set(pending.needed), pending.groups[0].earlier
    if earlier is not None and len(needed) < len(pending.rows):
        for row in pending.rows:
            old = int(earlier.row_of[row])
            if row not in needed and old not in earlier.unreadable:
                yield earlier.records[old]["sha256"].tobytes(), row


def limit_named(waiting_share: float) -> str:
    """What bounds the rate, by the share of the time that the network waits for decoded images."""
    share = f"{100 * waiting_share:.0f} % of the time waiting for images"
    return f"limit: {'decoding' if waiting_share > WAITING_SHARE else 'network'}, {share}"


class _Writer:
    """Writes results in a thread of its own, at most two behind, and commits every few seconds."""

    def __init__(self, columns: dict[str, int], report: PassReport) -> None:
        self.columns, self.report = columns, report
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.behind: list[Future] = []
        self.groups: list[DumpGroup] = []
        self.committed = time.monotonic()

    def put(self, result: Result) -> None:
        """Write a result soon; waits where more than two are left to write."""
        self.behind.append(self.pool.submit(self._write, result))
        while len(self.behind) > 2:
            self.behind.pop(0).result()

    def _write(self, result: Result) -> None:
        for group in result.pending.groups:
            group.write_window(result.pending.number, result.window, self.columns, result.settings)
            if group not in self.groups:
                self.groups.append(group)
            row_bytes = sum(file.row_bytes for file in group.written.values())
            self.report.bytes_written += len(result.pending.rows) * row_bytes
        if time.monotonic() - self.committed >= COMMIT_EVERY_S:
            self._commit()

    def _commit(self) -> None:
        for group in self.groups:
            group.commit()
        self.committed = time.monotonic()

    def close(self) -> None:
        """Wait for everything and commit it."""
        while self.behind:
            self.behind.pop(0).result()
        self.pool.submit(self._commit).result()

    def abandon(self) -> None:
        """After an error elsewhere: write and commit what was computed; nothing if all is closed already."""
        try:
            if self.behind:
                self.close()
        except Exception as error:  # the first error is on its way already
            log.warning(f"not everything computed could be kept: {error}")
        self.pool.shutdown(wait=True, cancel_futures=True)
