"""What several processes may ask for at one time is made by one of them, while the others wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from competition.errors import Top7Error

T = TypeVar("T")


def made_once(path: Path, opened: Callable[[], T | None], make: Callable[[], object]) -> T:
    """Return what `opened` finds; where it finds nothing, one process makes it while the others wait.

    path: what is made, for the name of the lock beside it. Top7Error: it is damaged as soon as it is made.
    """
    if (found := opened()) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with FileLock(lock):
            if (found := opened()) is None:
                make()
                found = opened()
        lock.unlink(missing_ok=True)  # whoever still waits for it finds the file
    if found is None:
        raise Top7Error(f"{path}: just written and damaged already: check the disk")
    return found
