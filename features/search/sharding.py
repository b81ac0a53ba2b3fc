"""A function over row ranges of a gallery: here, on threads if it can, or on the workers of a Dask cluster.

Workers open dumps by their path, on a disk that all machines share; what travels are queries and results. A shard whose
worker dies is computed again by another one.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from competition.errors import ConfigurationError, Top7Error
from competition.messages import log, on_stderr
from features.search.threads import thread_count, threads

SHARD_ROWS = 8192  # at least: fewer take longer to send than to compute
SHARDS_A_WORKER = 4  # so that the last ones do not wait long for the slowest
SENT_BYTES = 32 << 20  # with each shard, at most
ANSWER_S = 20.0  # within which a scheduler answers
_ON_CLUSTER: ContextVar[bool] = ContextVar("on_cluster", default=False)

Done = Callable[[int], object]
Shard = Callable[[int, int, Done], Any]


def cluster_client(address: str) -> Any:
    """Return a client of the Dask scheduler at `address`; ConfigurationError without Dask, Top7Error without an answer."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise ConfigurationError(
            "--cluster needs Dask: install the extra [cluster] (dask[distributed])"
        ) from None
    try:
        return Client(address, timeout=ANSWER_S)
    except OSError as error:
        raise Top7Error(
            f"--cluster {address}: no Dask scheduler answers there ({error}): start one with `dask "
            "scheduler`, or give its address as tcp://host:port"
        ) from None


@contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Give what `map_over_shards` does inside the block to the Dask scheduler at `address` (None: do it here)."""
    if address is None:
        yield
        return
    import joblib

    client = cluster_client(address)
    token = _ON_CLUSTER.set(True)
    try:
        with client, joblib.parallel_config(backend="dask", client=client):
            yield
    finally:
        _ON_CLUSTER.reset(token)


def shared_out(total: int) -> bool:
    """Return whether `map_over_shards` gives parts of `total` rows to a cluster's workers."""
    return _ON_CLUSTER.get() and total >= 2 * SHARD_ROWS


def map_over_shards(
    function: Shard, total: int, done: Done = lambda rows: None, *, threaded: bool = False
) -> Iterator[Any]:
    """Yield function(start, stop, done) for row ranges that make up `total` rows, in rising order.

    This process outside `on_cluster`, where there are too few rows to share out, and where more than SENT_BYTES of what
    the function holds lies in no file: one range, or if it is `threaded` some for each of `threads`. `done` hears how
    many rows are finished. A worker's Top7Error is raised here.
    """
    sent = _by_path(function) if shared_out(total) else None
    if sent is None or len(sent) > SENT_BYTES:
        if sent is not None:
            log.info(f"{len(sent) / 2**20:.0f} MiB would go to each worker, which lie in no file: done here")
        yield from _here(function, total, done, threaded)
        return
    import joblib

    ranges = _ranges(total, _workers())
    calls = (joblib.delayed(_in_worker)(sent, start, stop) for start, stop in ranges)
    found = joblib.Parallel(n_jobs=-1, return_as="generator", batch_size=1)(calls)
    for start, stop in ranges:
        try:
            result = next(found)
        except Exception as error:
            if type(error).__name__ != "KilledWorker":
                raise
            raise Top7Error(
                f"--cluster: rows {start} to {stop - 1} or later ones ended several workers: give the workers more "
                "memory, or look at their logs"
            ) from error
        done(stop - start)
        yield result


def _here(function: Shard, total: int, done: Done, threaded: bool) -> Iterator[Any]:
    if not threaded or total < 2 * SHARD_ROWS or thread_count() == 1:
        yield function(0, total, done)
        return
    lock = Lock()

    def counted(rows: int) -> None:
        with lock:
            done(rows)

    with threads() as spread:
        yield from spread(lambda rows: function(rows[0], rows[1], counted), _ranges(total, thread_count()))


def _ranges(total: int, workers: int) -> list[tuple[int, int]]:
    count = max(1, min(SHARDS_A_WORKER * workers, total // SHARD_ROWS))
    bounds = np.linspace(0, total, count + 1).astype(int).tolist()
    return list(zip(bounds, bounds[1:]))


def _workers() -> int:
    import joblib

    try:
        return joblib.effective_n_jobs(-1)
    except TimeoutError:
        raise Top7Error(
            "--cluster: the scheduler has no workers: start some with `dask worker ADDRESS`"
        ) from None


@on_stderr()
def _in_worker(sent: bytes, start: int, stop: int) -> Any:
    return pickle.loads(sent)(start, stop, lambda rows: None)


def _by_path(function: Shard) -> bytes:
    """The pickled function; an array that is mapped from a file goes as the file's path."""
    import cloudpickle

    class ByPath(cloudpickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            place = _place(value) if isinstance(value, np.ndarray) else None
            return super().reducer_override(value) if place is None else (_opened, place)

    stream = io.BytesIO()
    ByPath(stream).dump(function)
    return stream.getvalue()


def _place(array: np.ndarray) -> tuple | None:
    """Where a read-only array lies in a file, as arguments of `_opened`; None for one that does not."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    mapped = isinstance(root, np.memmap) and root.filename is not None
    if not mapped or array.flags.writeable or not array.flags.c_contiguous:
        return None
    path = Path(root.filename).absolute()
    status = os.stat(path)
    offset = root.offset + array.ctypes.data - root.ctypes.data
    return path, status.st_size, int(status.st_mtime), array.dtype.str, offset, array.shape


def _opened(path: Path, size_bytes: int, mtime_s: int, dtype: str, offset: int, shape: tuple) -> np.ndarray:
    where = f"--cluster: worker on {socket.gethostname()}: {path}"
    try:
        status = os.stat(path)
        if (status.st_size, int(status.st_mtime)) != (size_bytes, mtime_s):
            raise Top7Error(
                f"{where}: {status.st_size} bytes of time {int(status.st_mtime)} there, expected {size_bytes} of {mtime_s}: "
                "another file: give all machines the same disk under the same path"
            )
        return np.memmap(path, dtype, "r", offset, shape)
    except OSError as error:
        raise Top7Error(
            f"{where}: {error.strerror}: give all machines the same disk under the same path"
        ) from None
