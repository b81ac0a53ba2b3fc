"""Rates of what re-ranking costs on a large gallery: neighbour graph, codes, diffusion, approximate indexes.

    python tests/benchmarks/ranking_scale.py --rows 50000 --dim 256

Random clustered unit vectors. Physical limits: the graph needs rows^2 * dim operations at the rate of the
faster of bare float32 and bfloat16 products, measured beside it; everything else is sparse and bound by memory.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from competition.messages import duration  # noqa: E402
from features.ranking.steps.approximate import approximate_search  # noqa: E402
from features.ranking.steps.diffuse import diffused, transition  # noqa: E402
from features.ranking.steps.reciprocal import (  # noqa: E402
    jaccard_distances,
    learn_codes,
    query_code,
)
from features.search.exact_search import search  # noqa: E402
from features.search.factors import chosen  # noqa: E402
from features.search.faiss_builders import BUILDERS  # noqa: E402
from features.search.faiss_indexes import build_index  # noqa: E402
from features.search.neighbour_graph import neighbour_graph  # noqa: E402
from features.search.similarity import component_similarity, pair_scores  # noqa: E402
from tests.features_tests import ranking_references  # noqa: E402


def clustered(path: Path, rows: int, dim: int) -> np.ndarray:
    """Write (rows, dim) unit vectors, about ten around each of rows / 10 centres; return them memory-mapped."""
    generator = np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=(rows, dim))
    centres = generator.standard_normal((max(1, rows // 10), dim), dtype=np.float32)
    for start in range(0, rows, 8192):
        count = min(8192, rows - start)
        block = centres[generator.integers(0, len(centres), count)]
        block = block + 0.7 * generator.standard_normal((count, dim), dtype=np.float32)
        out[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()
    return np.load(path, mmap_mode="r")


class Clock:
    """Prints what a step took: wall and CPU seconds, and the rate of `items`."""

    def __init__(self, name: str, items: int, unit: str):
        self.name, self.items, self.unit = name, items, unit

    def __enter__(self):
        self.begin, self.cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *error):
        wall, cpu = time.perf_counter() - self.begin, time.process_time() - self.cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{self.name:38} {wall:8.2f} s, CPU {cpu:8.2f} s, {self.items / cpu:10.1f} {self.unit} a CPU second, "
            f"highest resident set so far {peak:.2f} GiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    one = np.ones(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        gallery = clustered(folder / "g.npy", options.rows, options.dim)
        queries = np.array(gallery[:: options.rows // options.queries][: options.queries])
        _, rate = chosen([gallery], one, np.zeros(options.rows, bool))
        print(
            f"{options.rows} x {options.dim}, {options.neighbours} neighbours; the bare products of the graph, "
            f"half of all: {duration(options.rows**2 * options.dim / rate)}"
        )
        with Clock("neighbour graph", options.rows, "rows"):
            graph, scores = neighbour_graph(
                [gallery], one, options.neighbours, folder=folder, identity=["g"], unit=True
            )
        ranks, similarities = search([queries], [gallery], one, options.neighbours, unit=True)
        with Clock("k-reciprocal codes (k1 20, k2 6)", options.rows, "rows"):
            codes = learn_codes(
                graph, scores, lambda a, b: pair_scores([gallery], one, a, b), min(20, options.neighbours)
            )
        with Clock("k-reciprocal distances", len(queries), "queries"):
            for query, row, values in zip(queries, ranks, similarities):
                code = query_code(
                    codes, row, values, lambda rows, q=query: component_similarity(q, gallery[rows])
                )
                jaccard_distances(codes, *code)
        with Clock("diffusion matrix", options.rows, "rows"):
            smoothing = transition(graph, scores, neighbours=options.neighbours)
        with Clock("diffusion, at most 50 steps", len(queries), "queries"):
            for row, values in zip(ranks, similarities):
                diffused(smoothing, row[:10], values[:10])
        for kind in BUILDERS:
            with Clock(f"{kind}: building", options.rows, "rows"):
                index = build_index([gallery], one, kind, folder, identity=["g"])
            size = sum(path.stat().st_size for path in folder.glob(f"index-{kind}-*"))
            with Clock(
                f"{kind}: searching, {size / 1e6:.0f} MB", len(queries), "queries (and the exact lists)"
            ):
                approximate_search(index, ranking_references.start([queries], [gallery], one, 7))


if __name__ == "__main__":
    main()
