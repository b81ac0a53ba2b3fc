"""Time and memory of the exact search beside the bare matrix product and faiss, on random unit descriptors.

    python tests/benchmarks/search_speed.py --rows 520000 --queries 100 1000

Physical limit: 2 * queries * rows * dimensions floating-point operations at the machine's float32 rate, which
the bare product (numpy's BLAS, same block sizes, gallery memory-mapped) stands for. Peak memory is anonymous
memory, and the highest resident set, mapped file pages included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from features.search.exact_search import search  # noqa: E402
from features.search.similarity import BLOCK_ROWS, forget, similarity_blocks  # noqa: E402


def unit_file(path: Path, rows: int, dimension: int, dtype: str) -> np.ndarray:
    """Write (rows, dimension) random unit vectors in blocks, unless they are there; return them
    memory-mapped.
    """
    if not path.exists():
        out = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=(rows, dimension))
        for start in range(0, rows, 8192):
            generator = np.random.default_rng((start, dimension))
            block = generator.standard_normal((min(8192, rows - start), dimension), dtype=np.float32)
            out[start : start + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
        out.flush()
        del out
    return np.load(path, mmap_mode="r")


class AnonymousPeak:
    """The largest anonymous memory of this process while the block runs, sampled every `every_s`, in bytes."""

    def __init__(self, every_s: float = 0.005):
        self.every_s = every_s

    def __enter__(self):
        self.peak_bytes, self.stop = 0, threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        while not self.stop.wait(self.every_s):
            for line in open("/proc/self/status", encoding="ascii"):
                if line.startswith("RssAnon"):
                    self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def bare_product(queries, gallery):
    for start in range(0, len(gallery[0]), BLOCK_ROWS):
        for q, g in zip(queries, gallery):
            np.matmul(q, g[start : start + BLOCK_ROWS].T)
            forget(g[start : start + BLOCK_ROWS])


def best_of(repeats: int, contenders: dict) -> dict[str, tuple[float, float]]:
    """Return the shortest wall time and CPU time of each, in seconds; they take turns, so that other load
    meets all alike. On a busy machine compare CPU times, with OPENBLAS_NUM_THREADS=1 (idle threads spin).
    """
    times = {name: (np.inf, np.inf) for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            work()
            wall, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
            times[name] = (min(times[name][0], wall), min(times[name][1], cpu))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=520_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[1472], help="e.g. 64 128 256 512 512")
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--k", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="keep the random gallery here (default: a temporary folder)"
    )
    parser.add_argument(
        "--faiss", action="store_true", help="also time faiss.knn (reads the gallery into memory)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        gallery = [
            unit_file(folder / f"unit-{options.rows}-{d}-{options.dtype}.npy", options.rows, d, options.dtype)
            for d in options.dims
        ]
        weights = np.full(len(gallery), 1 / len(gallery))
        for count in options.queries:
            chosen = np.random.default_rng(1).choice(options.rows, count, replace=False)
            queries = [
                (
                    g[np.sort(chosen)] + 0.02 * np.random.default_rng(2).standard_normal((count, g.shape[1]))
                ).astype(np.float32)
                for g in gallery
            ]
            queries = [q / np.linalg.norm(q, axis=1, keepdims=True) for q in queries]
            operations = 2 * count * options.rows * sum(options.dims)
            print(f"\n{count} queries x {options.rows} x {options.dims} {options.dtype}, k = {options.k}")
            with AnonymousPeak() as memory:
                search(queries, gallery, weights, options.k)
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(
                f"exact search: anonymous peak {memory.peak_bytes / 2**30:.2f} GiB, highest resident set "
                f"{resident / 2**30:.2f} GiB"
            )
            contenders = {
                "exact search": lambda: search(queries, gallery, weights, options.k, unit=True),
                "exact search, norms measured": lambda: search(queries, gallery, weights, options.k),
                "similarity_blocks": lambda: sum(1 for _ in similarity_blocks(queries, gallery)),
            }
            if options.dtype == "float32":
                contenders["bare product"] = lambda: bare_product(queries, gallery)
            if options.faiss:
                import faiss

                whole = np.concatenate([np.asarray(g, np.float32) for g in gallery], axis=1)
                fused = np.concatenate([q * w for q, w in zip(queries, weights)], axis=1).astype(np.float32)
                contenders["faiss.knn, gallery in memory"] = lambda: faiss.knn(
                    fused, whole, options.k, metric=faiss.METRIC_INNER_PRODUCT
                )
                contenders["bare product, gallery in memory"] = lambda: [
                    np.matmul(fused, whole[s : s + BLOCK_ROWS].T) for s in range(0, len(whole), BLOCK_ROWS)
                ]
            times = best_of(options.repeats, contenders)
            bare = times.get("bare product", (np.nan, np.nan))
            for name, (wall, cpu) in times.items():
                print(
                    f"{name:32} {wall:8.2f} s {operations / wall / 1e9:6.1f} GFLOP/s {wall / bare[0]:5.2f} x the bare "
                    f"product; CPU {cpu:8.2f} s {cpu / bare[1]:5.2f} x",
                    flush=True,
                )
            if options.faiss:
                del whole, contenders


if __name__ == "__main__":
    main()
