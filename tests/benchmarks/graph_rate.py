"""The rate of the neighbour graph of a large gallery, from a slice of its rows, beside the bare matrix product.

    python -m tests.benchmarks.graph_rate --rows 520000 --dimensions 1472 --graph-rows 4096

Made-up descriptors, about ten around each centre, are written block by block to a temporary folder in the current one
(4 bytes a row and dimension: 3.1 GB) and removed afterwards. The slice is as many whole blocks of rows as the graph is
computed in, spread over the gallery, each looked up in all of it, as `neighbour_graph` does; block and bare product take
turns, so that other work on the machine meets both. Peak memory is anonymous memory, sampled in one more block that is not
timed; the gallery is mapped.

Physical limit: the bare float32 product of those rows with the whole gallery, 2 * rows * dimensions operations a row,
same blocks, gallery memory-mapped. (All pairs are looked at twice, once from either side; half would do.)
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from features.ranking.neighbours import QUERY_ROWS, duration, graph_block
from features.similarity import UNIT_NORM
from tests.benchmarks.search_speed import AnonymousPeak, bare_product

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


def clocked(work) -> np.ndarray:
    """(wall, processor) seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=520_000)
    parser.add_argument("--dimensions", type=int, default=1472)
    parser.add_argument(
        "--graph-rows", type=int, default=4096, help=f"rows looked up, in blocks of {QUERY_ROWS}"
    )
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".", prefix="graph-rate-") as temporary:
        gallery = write_clustered(Path(temporary), options.rows, options.dimensions, options.dtype)
        size = min(QUERY_ROWS, options.rows)
        blocks = max(1, min(options.graph_rows, options.rows) // size)
        starts = np.linspace(0, options.rows - size, blocks).astype(int)
        graph, bare = np.zeros(2), np.zeros(2)

        def block(start: int) -> None:
            graph_block(
                [gallery], np.ones(1), options.neighbours, start, start + size, norm_bounds=[UNIT_NORM]
            )

        with AnonymousPeak() as memory:  # on a block of its own: sampling takes time
            block(0)
        for start in map(int, starts):
            graph += clocked(lambda: block(start))
            queries = np.array(gallery[start : start + size])
            if options.dtype == "float32":
                bare += clocked(lambda: bare_product([queries], [gallery]))
        report(options, len(starts) * size, graph, bare, memory.peak_bytes)


def report(
    options: argparse.Namespace, looked_up: int, graph: np.ndarray, bare: np.ndarray, peak_bytes: int
) -> None:
    print(
        f"{looked_up} of {options.rows} rows x {options.dimensions} {options.dtype}, {options.neighbours} neighbours; "
        f"load at the end {os.getloadavg()[0]:.1f}; anonymous peak {peak_bytes / 2**30:.2f} GiB"
    )
    found = {}
    for name, (wall, cpu) in (("neighbour graph", graph), ("bare product", bare)):
        if not wall:
            continue
        whole = options.rows / looked_up
        operations = 2 * looked_up * options.rows * options.dimensions
        print(
            f"{name:16} {looked_up / wall:8.1f} rows/s ({looked_up / cpu:8.1f} a processor second), "
            f"{operations / wall / 1e9:6.1f} GFLOP/s, {wall / bare[0] if bare[0] else np.nan:5.2f} x the bare product "
            f"(processor {cpu / bare[1] if bare[1] else np.nan:5.2f} x); all rows: {duration(wall * whole)}"
        )
        found[name] = {
            "rows_s": looked_up / wall,
            "rows_cpu_s": looked_up / cpu,
            "hours": wall * whole / 3600,
        }
    print(
        json.dumps(
            {
                "rows": options.rows,
                "dimensions": options.dimensions,
                "graph_rows": looked_up,
                "peak_bytes": peak_bytes,
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
