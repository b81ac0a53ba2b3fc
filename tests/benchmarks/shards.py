"""The exact search of SCALING.md's 10-million column: in one process, and in shards on a Dask cluster of two.

    python -m tests.benchmarks.shards [--rows 10000000] [--dims 16 32 64 128 128] [--folder /tmp]

Made-up unit rows, one float32 file a layer as dumps are (the default: the embedded network's five layers, 1472 bytes a
row), written block by block to a temporary folder and removed afterwards. Some rows stand once more at the far end, and
queries lie beside them, so that lists have ties across shards. Each run: 100 queries, top 7, with the files dropped from
the page cache before ("cold"), and again as they are then ("warm", where they fit in half of the free memory). The
lists of all runs must be equal, numbers and float64 scores.

Beside them: SCALING.md's model (2 s for 100 queries, 520,000 rows and 1472 values, in proportion), the processor time of
the first 520,000 of these rows in memory, in proportion, and the bare reading of the files, cold. Anonymous memory is
that of this process and all it started, sampled every 0.1 s; what was there before the search stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from features.search.exact_search import search
from features.search.sharding import on_cluster
from tests.benchmarks.half_million import memory_of

QUERIES, K = 100, 7
WRITTEN_ROWS = 65_536
TWINS = 50  # rows that stand at either end
MODEL_S, MODEL_ROWS, MODEL_VALUES = 2.0, 520_000, 1472  # of SCALING.md's constants
WORKERS = 2


def write_rows(path: Path, rows: int, dimension: int) -> np.ndarray:
    """Write (rows, dimension) float32 unit rows, the last TWINS equal to the first; return them mapped."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimension))
    for start in range(0, rows, WRITTEN_ROWS):
        rng = np.random.default_rng([dimension, start])
        block = rng.standard_normal((min(WRITTEN_ROWS, rows - start), dimension), dtype=np.float32)
        block /= np.sqrt(np.einsum("nd,nd->n", block, block))[:, None]
        out[start : start + len(block)] = block
    out[-TWINS:] = out[:TWINS]
    out.flush()
    return np.load(path, mmap_mode="r")


def dropped(paths: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare_read(paths: list[Path]) -> None:
    buffer = bytearray(16 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


@contextmanager
def watched(found: dict) -> Iterator[None]:
    """Note seconds, processor seconds, bytes read from the disk, and the highest anonymous memory beside what it was."""
    own, stop = psutil.Process(), threading.Event()

    def so_far() -> tuple[float, float, int]:
        tree = [own, *own.children(recursive=True)]
        times = [each.cpu_times() for each in tree]
        user, system = sum(each.user for each in times), sum(each.system for each in times)
        return user + system, system, sum(each.io_counters().read_bytes for each in tree)

    found["anonymous_before"] = found["anonymous"] = memory_of(own)[0]

    def sample() -> None:
        while not stop.wait(0.1):
            found["anonymous"] = max(found["anonymous"], memory_of(own)[0])

    sampler, before, begin = threading.Thread(target=sample), so_far(), time.perf_counter()
    sampler.start()
    try:
        yield
    finally:
        found["seconds"] = time.perf_counter() - begin
        spent = [now - then for now, then in zip(so_far(), before, strict=True)]
        found["processor_s"], found["system_s"], found["disk_bytes"] = spent
        found["load"] = os.getloadavg()[0]
        stop.set()
        sampler.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 32, 64, 128, 128], help="of each layer")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="shards-") as folder:
        print(json.dumps(measure(Path(folder), options.rows, options.dims)))


def measure(folder: Path, rows: int, dims: list[int]) -> dict:
    """Write the rows, run all, print a line each, and return the figures. AssertionError: lists that differ."""
    from dask.distributed import LocalCluster

    paths = [folder / f"layer-{number}.npy" for number in range(len(dims))]
    begin = time.perf_counter()
    gallery = [write_rows(path, rows, dimension) for path, dimension in zip(paths, dims, strict=True)]
    size = sum(path.stat().st_size for path in paths)
    print(
        f"{rows} rows x {dims} float32, {size / 1e9:.1f} GB, written in {time.perf_counter() - begin:.0f} s",
        flush=True,
    )
    rng = np.random.default_rng(0)
    near = np.sort(
        np.concatenate([np.arange(QUERIES // 2) % TWINS, rng.integers(TWINS, rows, QUERIES - QUERIES // 2)])
    )
    queries = []
    for part in gallery:
        noisy = (
            part[near]
            + 0.3 * rng.standard_normal((QUERIES, part.shape[1]), dtype=np.float32) / part.shape[1] ** 0.5
        )
        queries.append(noisy / np.linalg.norm(noisy, axis=1, keepdims=True))
    weights = np.full(len(dims), 1 / len(dims))

    def lists(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return search(queries, parts, weights, K, unit=True)

    def timed(parts: list[np.ndarray], threads: int = 1, address: str | None = None) -> tuple[dict, tuple]:
        found: dict = {}
        with threadpool_limits(threads), on_cluster(address), watched(found):
            lists = search(queries, parts, weights, K, unit=True)
        return found, lists

    few = min(MODEL_ROWS, rows)
    first = [part[:few] for part in gallery]
    timed(first)
    constant, _ = timed(first)
    dropped(paths)
    bare: dict = {}
    with watched(bare):
        bare_read(paths)
    result = {
        "rows": rows,
        "dims": dims,
        "bytes": size,
        "model_s": MODEL_S * rows / MODEL_ROWS * sum(dims) / MODEL_VALUES,
        "model_of_now_processor_s": constant["processor_s"] * rows / few,
        "bare_read_s": bare["seconds"],
    }
    print(
        f"SCALING.md's model {result['model_s']:.1f} s; the first {few} rows in memory, one thread: "
        f"{constant['seconds']:.2f} s ({constant['processor_s']:.2f} of processor time, {constant['system_s']:.2f} the kernel's), in proportion "
        f"{result['model_of_now_processor_s']:.1f} s of processor time; bare read, cold {bare['seconds']:.1f} s",
        flush=True,
    )
    warm = size < psutil.virtual_memory().available / 2
    expected: tuple = ()
    with LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        for name, threads, address in (
            ("one process, one thread", 1, None),
            (f"one process, {WORKERS} threads", WORKERS, None),
            (f"{WORKERS} workers of one thread", 1, cluster.scheduler_address),
        ):
            for how in ("cold", "warm") if warm else ("cold",):
                if how == "cold":
                    dropped(paths)
                found, lists = timed(gallery, threads, address)
                expected = expected or lists
                assert all(map(np.array_equal, lists, expected)), f"{name}: other lists"
                result[f"{name}, {how}"] = found
                print(
                    f"{name}, {how}: {found['seconds']:.1f} s, {found['processor_s']:.1f} of processor time ({found['system_s']:.1f} the kernel's), "
                    f"{size / found['seconds'] / 1e6:.0f} MB/s, {found['disk_bytes'] / 1e9:.1f} GB from the disk; anonymous "
                    f"peak {found['anonymous'] / 2**20:.0f} MiB, {found['anonymous_before'] / 2**20:.0f} before; load "
                    f"{found['load']:.1f}",
                    flush=True,
                )
    ties = int((np.diff(expected[1], axis=1) == 0).sum())
    print(f"lists equal, numbers and scores; {ties} ties between neighbours in the lists")
    return result | {"ties": ties}


if __name__ == "__main__":
    main()
