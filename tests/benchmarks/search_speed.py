"""Time and memory of the exact search beside the bare matrix product and faiss, on random unit descriptors.

    python tests/benchmarks/search_speed.py --rows 520000 --queries 100 1000

Physical limit: 2 * queries * rows * dimensions floating-point operations at the machine's float32 rate, which the
bare product (numpy's BLAS, same block sizes, gallery memory-mapped) stands for. Peak memory is anonymous memory,
and the highest resident set, mapped file pages included.
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

from features.search import search  # noqa: E402
from features.similarity import BLOCK_ROWS, UNIT_NORM, forget, similarity_blocks  # noqa: E402


def unit_file(path: Path, rows: int, dimension: int, dtype: str) -> np.ndarray:
    """Write (rows, dimension) random unit vectors in blocks, unless they are there; return them memory-mapped."""
    if not path.exists():
        out = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=(rows, dimension))
        for start in range(0, rows, 8192):
            generator = np.random.default_rng((start, dimension))
            block = generator.standard_normal((min(8192, rows - start), dimension), dtype=np.float32)
            out[start:start + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
        out.flush()
        del out
    return np.load(path, mmap_mode="r")


class AnonymousPeak:
    """The largest anonymous memory of this process while the block runs, sampled every 5 ms, in bytes."""

    def __enter__(self):
        self.peak_bytes, self.stop = 0, threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        while not self.stop.wait(0.005):
            for line in open("/proc/self/status", encoding="ascii"):
                if line.startswith("RssAnon"):
                    self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def bare_product(queries, gallery):
    for start in range(0, len(gallery[0]), BLOCK_ROWS):
        for q, g in zip(queries, gallery):
            np.matmul(q, g[start:start + BLOCK_ROWS].T)
            forget(g[start:start + BLOCK_ROWS])


def best_of(repeats: int, work) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=520_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[1472], help="e.g. 64 128 256 512 512")
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--k", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the random gallery here (default: a temporary folder)")
    parser.add_argument("--faiss", action="store_true", help="also time faiss.knn (reads the gallery into memory)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        gallery = [unit_file(folder / f"unit-{options.rows}-{d}-{options.dtype}.npy", options.rows, d, options.dtype)
                   for d in options.dims]
        weights = np.full(len(gallery), 1 / len(gallery))
        for count in options.queries:
            chosen = np.random.default_rng(1).choice(options.rows, count, replace=False)
            queries = [(g[np.sort(chosen)] + 0.02 * np.random.default_rng(2).standard_normal((count, g.shape[1])))
                       .astype(np.float32) for g in gallery]
            queries = [q / np.linalg.norm(q, axis=1, keepdims=True) for q in queries]
            operations = 2 * count * options.rows * sum(options.dims)
            def show(name, seconds, note=""):
                print(f"{name:34} {seconds:8.2f} s  {operations / seconds / 1e9:6.1f} GFLOP/s  {note}", flush=True)
            print(f"{count} queries x {options.rows} x {options.dims} {options.dtype}, k = {options.k}")
            with AnonymousPeak() as memory:
                measured = best_of(options.repeats, lambda: search(queries, gallery, weights, options.k))
                ours = best_of(options.repeats, lambda: search(queries, gallery, weights, options.k,
                                                               norm_bounds=[UNIT_NORM] * len(gallery)))
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            show("exact search", ours, f"anonymous peak {memory.peak_bytes / 2**30:.2f} GiB, "
                                       f"highest resident so far {resident / 2**30:.2f} GiB")
            show("exact search, norms measured", measured)
            if options.dtype == "float32":
                bare = best_of(options.repeats, lambda: bare_product(queries, gallery))
                show("bare product, blocks, memmap", bare, f"search / product = {ours / bare:.2f}")
            blocks = best_of(options.repeats, lambda: sum(1 for _ in similarity_blocks(queries, gallery)))
            show("similarity_blocks", blocks)
            if options.faiss:
                import faiss

                whole = np.concatenate([np.asarray(g, np.float32) for g in gallery], axis=1)
                fused = np.concatenate([q * w for q, w in zip(queries, weights)], axis=1).astype(np.float32)
                seconds = best_of(options.repeats, lambda: faiss.knn(fused, whole, options.k,
                                                                     metric=faiss.METRIC_INNER_PRODUCT))
                show("faiss.knn, in memory", seconds)
                bare = best_of(options.repeats, lambda: [
                    np.matmul(fused, whole[s:s + BLOCK_ROWS].T) for s in range(0, len(whole), BLOCK_ROWS)])
                show("bare product, blocks, in memory", bare, f"search / product = {ours / bare:.2f}")
                del whole


if __name__ == "__main__":
    main()
