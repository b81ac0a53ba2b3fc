"""Several devices on one machine: one worker process a device, whoever started the processes."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

_held: list[FileLock] = []  # locks of this process; the system drops them when it dies


def claim(names: Sequence[str], folder: Path) -> int:
    """The place among `names` of a device that fewest processes have claimed, claimed until this process ends.

    folder: where processes of this machine meet. A dead process's device is free again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for sharing in itertools.count():
        for number, name in enumerate(names):
            lock = FileLock(folder / f"{name}.{sharing}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            _held.append(lock)
            return number
    raise AssertionError  # the count has no end


def device_names(count: int, visible: str | None) -> list[str]:
    """What the `count` devices that a process sees are called on the machine.

    visible: CUDA_VISIBLE_DEVICES, which may number them otherwise in each process.
    """
    listed = [name.strip().replace("/", "_") for name in visible.split(",")] if visible else []
    return listed[:count] if len(listed) >= count else list(map(str, range(count)))


@cache
def own_device(count: int) -> int:
    """The number, among the `count` CUDA devices that this process sees, of the one that it is to use."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"top7-devices-{user}"
    return claim(device_names(count, os.environ.get("CUDA_VISIBLE_DEVICES")), folder)
