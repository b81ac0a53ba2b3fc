"""The sections in their order, each in a process of its own with a time of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

from tests.benchmarks.gpu.rows import MISSED, Row, Section, Task, skipped

SECTIONS = {  # in their order: seconds of each, at most; together more than the whole, which few of them use up
    "agreement": 70,
    "halving": 40,
    "killing": 50,
    "answering": 45,
    "speed": 170,
    "ranking": 60,
    "where": 30,
    "compiled": 240,
}
PRELOADED = [
    "torch",
    "timm",
    "features.extraction",
    "submissions.bundle",
    "tests.benchmarks.gpu.made_up",
]


def section(name: str, task: Task, rows: Section | None = None) -> Iterator[Row]:
    """Run a section in a process of its own and yield its rows as they come. rows: instead of those of that name."""
    if task.left_s() < 5:
        yield skipped("the whole section", "the clock ran out before it")
        return
    task.folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(name, task, rows, sender))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, task.left_s())):
            if (row := receiver.recv()) is None:
                process.join(10)
                break
            yield row
        else:
            yield skipped("the rest of the section", "its time, or that of the whole, ran out")
    except EOFError:
        process.join()
        yield Row(
            "the rest of the section", "", "an end", MISSED, f"its process ended with {process.exitcode}"
        )
    finally:
        process.kill()
        process.join()


def _run(name: str, task: Task, rows: Section | None, sender: Connection) -> None:
    """A section in its process: rows, then None; an error is a row."""
    try:
        rows = rows or importlib.import_module(f"tests.benchmarks.gpu.{name}").rows
        for row in rows(task):
            sender.send(row)
    except Exception as error:
        traceback.print_exc()
        line = next(iter(str(error).splitlines()), "")
        sender.send(
            Row("the rest of the section", "", "an end", MISSED, f"{type(error).__name__}: {line:.200}")
        )
    sender.send(None)
