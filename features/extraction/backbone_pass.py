"""One pass: a backbone over the images of a split, all missing dumps filled at once, resumable at any
instant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

from competition.images import ImageSet
from competition.messages import log
from competition.progress import Progress
from features.dumps.layout import Target
from features.extraction.batching import StartedWindow, Window
from features.extraction.contents import done_contents, taken_contents
from features.extraction.decode_ahead import Timed, read_ahead
from features.extraction.dump_group import DumpGroup
from features.extraction.engine import Engine
from features.extraction.tasks import Producer, Result, Task

COMMIT_EVERY_S = 15.0
WAITING_SHARE = 0.1


@dataclass
class PassReport:
    images: int = 0
    bytes_written: int = 0
    duplicates: int = 0


def run_pass(
    engine: Engine,
    split: str,
    images: ImageSet,
    groups: Sequence[DumpGroup],
    *,
    producer: Producer | None = None,
    progress: bool = True,
) -> PassReport:
    """Compute the windows that the journals lack and give the dumps their final names.

    producer: computes tasks elsewhere (other processes or machines); results may come in any order.
    """
    for group in groups:
        group.start()
    targets, widths = columns_of(groups)
    columns = {target.path.name: column for column, target in enumerate(targets)}
    report = PassReport()
    tasks = pending(groups)
    bar = Progress(
        total=len(images),
        initial=len(images) - sum(len(rows) for rows in _windows_left(groups)),
        desc=f"{engine.backbone.name} {split}",
        unit="img",
        shown=progress,
        delay=0,
    )
    writer = _Writer(columns, report)
    waited_s = taken_s = 0.0
    try:
        if producer is None:
            results = computed_here(engine, images, targets, widths, groups, tasks, bar)
        else:
            results = producer(tasks)
        for result in results:
            report.images += len(result.task.needed)
            report.duplicates += len(result.window.copies)
            if result.task.needed:  # rows taken over wait for no image
                waited_s, taken_s = waited_s + result.waited_s, taken_s + result.taken_s
                bar.set_postfix_str(limit_named(waited_s / max(1e-9, taken_s)), refresh=False)
            bar.update(len(result.task.rows) - (len(result.task.needed) if producer is None else 0))
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


def pending(groups: Sequence[DumpGroup]) -> Iterator[Task]:
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
        yield Task(number, rows, sorted(needed), lacking)


def _windows_left(groups: Sequence[DumpGroup]) -> Iterator[range]:
    for number in range(len(groups[0].done)):
        if not all(group.done[number] for group in groups):
            yield groups[0].window(number)


def computed_here(
    engine: Engine,
    images: ImageSet,
    targets: Sequence[Target],
    widths: Sequence[int],
    groups: Sequence[DumpGroup],
    tasks: Iterator[Task],
    bar: Progress,
) -> Iterator[Result]:
    """Compute tasks in this process, decoding ahead; images whose content was seen before are not run
    again. The last batches of a window are under way while the next one is read, so that no core waits.
    """
    known: dict[bytes, int] = {}
    for _, sha256, row in done_contents(groups):
        known.setdefault(sha256, row)
    waiting: list[Task] = []

    def rows() -> Iterator[int]:
        for task in tasks:
            waiting.append(task)
            yield from task.needed

    pictures = read_ahead(
        images,
        rows(),
        engine.sizings(),
        workers=engine.decode_threads,
        ahead=max(2 * engine.decode_threads, 4 * engine.settings.batch_rows),
    )
    timed = Timed(pictures)
    failed: dict[int, str] = {}

    def finished(task: Task, started: StartedWindow) -> Window:
        window = started.finish(failed)
        for sha256, row in started.first.items():
            if row in window.unreadable:  # it was taken for known while it was under way
                failed[row] = window.unreadable[row]
                known.pop(sha256)
        return window

    behind: tuple[Task, StartedWindow] | None = None
    began, waited_s = time.perf_counter(), 0.0
    try:
        while True:
            if not waiting:
                timed.fetch()  # draws the tasks up to that of the picture, and at the end those without any
            task = waiting.pop(0) if waiting else None
            if task is not None:
                started = StartedWindow(engine, targets, widths, task.rows)
                started.read(timed, task.needed, known, bar.update)
                for sha256, row in started.first.items():
                    known.setdefault(sha256, row)
                for _, sha256, row in taken_contents(task):
                    known.setdefault(sha256, row)
            if behind is not None:
                window = finished(*behind)
                taken_s = time.perf_counter() - began
                yield Result(behind[0], window, asdict(engine.settings), timed.waited_s - waited_s, taken_s)
                began, waited_s = time.perf_counter(), timed.waited_s
            if task is None:
                break
            behind = task, started
    finally:
        pictures.close()


def limit_named(waiting_share: float) -> str:
    """What bounds the rate, by the share of the time that the network waits for decoded images: a network that
    is the limit finds them there.
    """
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
        self.behind.append(self.pool.submit(self._write, result))
        while len(self.behind) > 2:
            self.behind.pop(0).result()

    def _write(self, result: Result) -> None:
        for group in result.task.groups:
            group.write_window(result.task.number, result.window, self.columns, result.settings)
            if group not in self.groups:
                self.groups.append(group)
            row_bytes = sum(file.row_bytes for file in group.written.values())
            self.report.bytes_written += len(result.task.rows) * row_bytes
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
