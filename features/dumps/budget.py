"""The disk space that candidates and what steps keep may take: what was used least recently goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from features.dumps.seals import read_seal, remove, touch

LEAST_BYTES = 64 << 20  # twice a small gallery's dumps would not hold what one trial needs
_BUDGET: ContextVar[tuple[tuple[Path, ...], int, Callable[[], bool]] | None] = ContextVar(
    "budget", default=None
)
_OPEN: WeakValueDictionary[Path, np.ndarray] = WeakValueDictionary()


def cache_bytes(cache_gib: float | None, gallery: Sequence[np.ndarray]) -> int:
    """Return what candidates and steps may keep: as configured, or twice the gallery's dumps that they come from."""
    if cache_gib is not None:
        return int(cache_gib * 2**30)
    return max(LEAST_BYTES, 2 * sum(part.nbytes for part in gallery))


@contextmanager
def budget(work: Path, most_bytes: int, let_go: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let what is kept in a work folder's `candidates` and `ranking` take at most so many bytes; see `make_room`.

    let_go: called when what is open takes too much: it closes something, and says whether there was anything.
    """
    token = _BUDGET.set(((Path(work) / "candidates", Path(work) / "ranking"), most_bytes, let_go))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def make_room(needed_bytes: int) -> None:
    """Remove what was used least recently until `needed_bytes` more fit the budget, if there is one.

    What this process has open stays until it is let go of: the budget may be exceeded by what cannot be. Another
    process that has mapped a file keeps what it mapped; one that is about to open it makes it again.
    """
    if (limit := _BUDGET.get()) is None:
        return
    folders, most_bytes, let_go = limit
    entries = []
    for sidecar in (path for folder in folders for path in folder.glob("*.json")):
        try:
            stamp = sidecar.stat()
        except FileNotFoundError:  # another process made room too
            continue
        if (found := read_seal(sidecar)) is not None:
            touch(sidecar, stamp.st_atime_ns)  # looking at it here is no use of it
            size_bytes = stamp.st_size + sum(noted["bytes"] for noted in found["files"].values())
            entries.append((stamp.st_atime_ns, sidecar, size_bytes))
    total = needed_bytes + sum(size_bytes for *_, size_bytes in entries)
    entries.sort()
    while total > most_bytes:
        oldest = next((entry for entry in entries if entry[1] not in _OPEN), None)
        if oldest is not None:
            entries.remove(oldest)
            remove(oldest[1])
            total -= oldest[2]
        elif not let_go():
            return


def hold(sidecar: Path, array: np.ndarray) -> None:
    """Note that this process reads the files of a sidecar for as long as `array` lives."""
    _OPEN[sidecar] = array
