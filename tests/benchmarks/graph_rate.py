"""The time of a large gallery's whole neighbour graph, beside the products that it cannot do without.

    python -m tests.benchmarks.graph_rate --rows 100000 --dimensions 512 --folder /tmp

Made-up descriptors, about ten around each centre, are written block by block to a temporary folder (4 bytes a row and
dimension and a tenth more), removed afterwards with the graph that `neighbour_graph` keeps there. Peak memory is
anonymous memory; the gallery is mapped. Some rows are looked up by the exact search too, which looks at every pair
twice: their lists must be equal.

Physical limit: rows^2 * dimensions operations, half of all products, as the matrix is symmetric; at the rate of bare
float32 products (numpy) and of bare bfloat16 ones (torch), both of tiles in one processor's cache, timed before and after
the graph. On a machine that does other work, processor seconds are what to compare, the graph's with the limits'.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from features.search.factors import TILE_ROWS
from features.search.neighbour_graph import graph_block, neighbour_graph
from features.search.threads import threads
from tests.benchmarks.search_speed import AnonymousPeak

WRITTEN_ROWS = 8192
A_CENTRE = 10  # descriptors around each


def write_clustered(folder: Path, rows: int, dimensions: int, dtype: str) -> np.ndarray:
    """Write (rows, dimensions) unit vectors to a file in `folder`, a block in memory at a time; returns them mapped."""
    generator = np.random.default_rng(0)
    centres = np.lib.format.open_memmap(
        folder / "centres.npy", "w+", np.float32, (max(1, rows // A_CENTRE), dimensions)
    )
    for start in range(0, len(centres), WRITTEN_ROWS):
        block = centres[start : start + WRITTEN_ROWS]
        block[:] = generator.standard_normal(block.shape, dtype=np.float32)
    out = np.lib.format.open_memmap(folder / "gallery.npy", "w+", dtype, (rows, dimensions))
    for start in range(0, rows, WRITTEN_ROWS):
        count = min(WRITTEN_ROWS, rows - start)
        block = centres[generator.integers(0, len(centres), count)]
        block += 0.7 * generator.standard_normal((count, dimensions), dtype=np.float32)
        out[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()
    return np.load(folder / "gallery.npy", mmap_mode="r")


CHECKED_ROWS = 64
BARE_S = 5.0  # each kind of bare product is repeated


def bare_rates(gallery: np.ndarray) -> dict[str, float]:
    """Return operations a processor second of bare products of one tile with itself, on one processor."""
    rows = np.array(gallery[:TILE_ROWS], np.float32)
    low = torch.from_numpy(rows).bfloat16()
    products = {"float32": lambda: rows @ rows.T, "bfloat16": lambda: torch.mm(low, low.T)}

    def rate(kind: str) -> float:
        count, begin, end = 0, time.thread_time(), time.perf_counter() + BARE_S
        while time.perf_counter() < end:
            products[kind]()
            count += 1
        return count * 2 * len(rows) ** 2 * rows.shape[1] / (time.thread_time() - begin)

    with threads() as spread:
        return {kind: list(spread(rate, [kind]))[0] for kind in products}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=520_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--folder", default=".", help="where the temporary folder is made (default: here)")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("top7").setLevel(logging.INFO)  # the estimate
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="graph-rate-") as temporary:
        gallery = write_clustered(Path(temporary), options.rows, options.dimensions, options.dtype)
        before, load = bare_rates(gallery), os.getloadavg()[0]
        with AnonymousPeak(0.1) as memory:
            wall, cpu = time.perf_counter(), time.process_time()
            rows, scores = neighbour_graph(
                [gallery],
                [1.0],
                options.neighbours,
                folder=Path(temporary),
                identity=["made up"],
                progress=True,
            )
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = bare_rates(gallery)
        start = options.rows // 3
        checked = slice(start, start + CHECKED_ROWS)
        expected = graph_block(
            [gallery],
            np.ones(1),
            options.neighbours,
            start,
            start + CHECKED_ROWS,
            np.zeros(options.rows, bool),
            True,
        )
        equal = all(a[checked].tobytes() == b.tobytes() for a, b in zip((rows, scores), expected))
    operations = options.rows**2 * options.dimensions
    limits = {kind: [operations / rates[kind] for rates in (before, after)] for kind in before}
    print(
        f"{options.rows} rows x {options.dimensions} {options.dtype}, {options.neighbours} neighbours: {wall:.1f} s, "
        f"{cpu:.1f} processor seconds; {options.rows / wall:.0f} rows/s, {operations / cpu / 1e9:.0f} GFLOP a processor "
        f"second; anonymous peak {memory.peak_bytes / 2**30:.2f} GiB; load {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after"
    )
    for kind, seconds in limits.items():
        rates = ", ".join(f"{operations / limit / 1e9:.0f}" for limit in seconds)
        print(
            f"bare {kind} products of half the pairs: {np.mean(seconds):.1f} processor seconds ({rates} GFLOP a second "
            f"before and after); the graph takes {cpu / np.mean(seconds):.2f} x"
        )
    print(f"{CHECKED_ROWS} rows {'equal' if equal else 'DIFFER FROM'} the exact search's, bit by bit")
    found = {"rows": options.rows, "dimensions": options.dimensions, "seconds": wall, "processor_s": cpu}
    print(
        json.dumps({**found, "peak_bytes": memory.peak_bytes, "limits_processor_s": limits, "equal": equal})
    )


if __name__ == "__main__":
    main()
