"""The neighbour graph of made-up unit vectors, its products on the device, beside the bare product and exact search."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from features.search.exact_search import search
from features.search.neighbour_graph import neighbour_graph
from features.search.similarity import BLOCK_ROWS
from tests.benchmarks.gpu.rows import Row, Task, judged, rate, skipped

QUERIES, NEIGHBOURS = 100, 10
GRAPH_ROWS = 65_536
GRAPH_GOAL_S = 600.0
WRITTEN_ROWS = 8192
A_CENTRE = 10  # vectors around each


def rows(task: Task) -> Iterator[Row]:
    """The graph of the first rows; all of them by the square of their number. Some rows are searched for exactly."""
    count, dimensions = (20_000, 64) if task.small else (520_000, 1472)
    chosen = min(count, GRAPH_ROWS)
    what = f"neighbour graph of {chosen} rows, {NEIGHBOURS} neighbours"
    if task.left_s() < 15:
        yield skipped(what, "no time left for it", f"all rows <= {GRAPH_GOAL_S:.0f} s")
        return
    part = np.array(_written(task, chosen, dimensions))  # in memory, so that nothing is read
    begin = time.perf_counter()
    rows_, scores = neighbour_graph([part], [1.0], NEIGHBOURS, unit=True)
    graph_s = time.perf_counter() - begin
    asked = np.random.default_rng(2).choice(chosen, QUERIES, replace=False)
    near, exact = search([part[asked]], [part], [1.0], NEIGHBOURS + 1, unit=True)
    others = near != asked[:, None]  # no row appears twice here, so each finds itself
    shape = (QUERIES, NEIGHBOURS)
    differing = (near[others].reshape(shape) != rows_[asked]) | (
        exact[others].reshape(shape) != scores[asked]
    )
    yield judged(
        f"{what}: {QUERIES} of its rows and exact search on the CPU",
        f"{int(differing.sum())} places or scores differ",
        "none",
        not differing.any(),
        differing=int(differing.sum()),
    )
    some = part[: min(chosen, 4096)]
    bare_s = _clocked(lambda: _bare_product(some, part, task.device)) * chosen / len(some)
    all_s = graph_s * (count / chosen) ** 2
    yield rate(
        task,
        what,
        f"{chosen / graph_s:.0f} rows/s; bare product of all pairs {chosen / bare_s:.0f}; all {count} rows in proportion to "
        f"their square {all_s:.0f} s",
        f"all rows <= {GRAPH_GOAL_S:.0f} s",
        all_s <= GRAPH_GOAL_S,
        graph_s=graph_s,
        bare_s=bare_s,
        all_rows_s=all_s,
    )


def _written(task: Task, count: int, dimensions: int) -> np.ndarray:
    """Unit vectors (count, dimensions) float32, about ten around each centre, drawn on the device, in a file, mapped."""
    path = task.folder / "gallery.npy"
    out = np.lib.format.open_memmap(path, "w+", np.float32, (count, dimensions))
    drawn = {"generator": torch.Generator(task.device).manual_seed(0), "device": task.device}
    centres = torch.randn((max(1, count // A_CENTRE), dimensions), **drawn)
    for start in range(0, count, WRITTEN_ROWS):
        size = min(WRITTEN_ROWS, count - start)
        block = centres[torch.randint(len(centres), (size,), **drawn)]
        block += 0.7 * torch.randn((size, dimensions), **drawn)
        out[start : start + size] = torch.nn.functional.normalize(block).cpu().numpy()
    out.flush()  # its writing back is not to fall into what is timed
    return np.load(path, mmap_mode="r")


def _bare_product(queries: np.ndarray, gallery: np.ndarray, device: str) -> None:
    """The float32 products alone, block by block, the gallery's rows copied to the device and nothing back."""
    left = torch.from_numpy(np.array(queries)).to(device)
    for start in range(0, len(gallery), BLOCK_ROWS):
        left @ torch.from_numpy(np.array(gallery[start : start + BLOCK_ROWS])).to(device).T
    if left.is_cuda:
        torch.cuda.synchronize()


def _clocked(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
