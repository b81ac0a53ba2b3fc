"""An extraction on the device killed (SIGKILL) half way and run again, beside one that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from competition.configuration import Configuration
from features.extraction import backbone_pass, extract, settings
from tests.benchmarks.gpu.made_up import configured, embedded, pictures
from tests.benchmarks.gpu.rows import Row, Task, judged

WINDOW_ROWS, COMMIT_EVERY_S = 8, 0.1  # 256 and 15 in earnest
WINDOWS = 9
PAUSE_S = 0.2  # after each window of the run that is killed, so that it is met half way


def rows(task: Task) -> Iterator[Row]:
    """What the kill left, and whether the bytes are those of the undisturbed run."""
    side = 64 if task.small else 224
    images = pictures(task.folder / "images", WINDOWS * WINDOW_ROWS, side)
    backbone = replace(embedded(side, poolings=("spoc", "fcrow"), parts=False), layers=(2, 4))
    undisturbed, disturbed = (
        configured(images, task.folder / name, backbone) for name in ("undisturbed", "disturbed")
    )
    _finished(_child(undisturbed, task.device, 0.0))
    process = _child(disturbed, task.device, PAUSE_S)
    work = disturbed.competition.work
    while process.is_alive() and _windows(work) < WINDOWS // 3:
        time.sleep(0.01)
    process.kill()
    process.join()
    left = _windows(work)
    before = (work / "ran").exists()  # it ended before it was met
    _finished(_child(disturbed, task.device, 0.0))
    ran = int((work / "ran").read_text())
    yield judged(
        "killed half way, run again",
        f"{left} of {WINDOWS} windows kept, {ran} of {WINDOWS * WINDOW_ROWS} images run again",
        "the finished windows are kept",
        not before and 0 < left < WINDOWS and ran <= (WINDOWS - left) * WINDOW_ROWS,
        windows_kept=left,
        images_run_again=ran,
    )
    one, other = _contents(undisturbed.competition.work), _contents(work)
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    figure = f"{len(different)} of {len(one)} files differ" + (f": {different[0]}" if different else "")
    yield judged(
        "bytes beside an undisturbed run", figure, "none", bool(one) and not different, different=different
    )


def _child(configuration: Configuration, device: str, pause_s: float) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("forkserver").Process(
        target=_extract, args=(configuration, device, pause_s)
    )
    process.start()
    return process


def _finished(process: multiprocessing.process.BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"an extraction in a process of its own ended with {process.exitcode}")


def _extract(configuration: Configuration, device: str, pause_s: float) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings.WINDOW_ROWS, backbone_pass.COMMIT_EVERY_S = WINDOW_ROWS, COMMIT_EVERY_S
    finish = backbone_pass.StartedWindow.finish

    def slowly(self):
        time.sleep(pause_s)
        return finish(self)

    backbone_pass.StartedWindow.finish = slowly
    report = extract(configuration, device=device, splits=("gallery",), progress=False)
    (configuration.competition.work / "ran").write_text(str(report.images))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _windows(work: Path) -> int:
    """Windows in the journals of a run that is not finished."""
    return max((path.read_bytes().count(b'{"window":') for path in work.rglob("*.journal")), default=0)


def _contents(work: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted((work / "dumps" / "gallery").iterdir())
        if path.is_file()
    }
