"""Exact search and neighbour graph of made-up unit vectors, their products on the device, beside the bare product."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator

import numpy as np
import torch

from features.ranking.neighbours import neighbour_graph
from features.search import search
from features.similarity import BLOCK_ROWS, UNIT_NORM
from tests.benchmarks.gpu.rows import Row, Task, judged, rate, skipped

QUERIES, K, NEIGHBOURS = 100, 7, 10
SEARCH_GOAL = 1.2  # times the bare product, as on a CPU
GRAPH_GOAL_S = 600.0
WRITTEN_ROWS = 8192


def rows(task: Task) -> Iterator[Row]:
    """The lists of the device beside those of the CPU, the rates, and the graph of a slice."""
    count, dimensions = (20_000, 64) if task.small else (520_000, 1472)
    gallery = _written(task, count, dimensions)
    rng = np.random.default_rng(1)
    near = gallery[np.sort(rng.choice(count, QUERIES, replace=False))]
    queries = near + 0.02 * rng.standard_normal(near.shape, dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    known = [UNIT_NORM]
    slice_ = gallery[: min(count, 65_536)]
    pair = [
        search([queries], [slice_], [1.0], K, norm_bounds=known, device=of) for of in ("cpu", task.device)
    ]
    differing = sum(int((one != other).sum()) for one, other in zip(*pair))
    yield judged(
        f"lists of {QUERIES} queries among {len(slice_)} rows, device and CPU",
        f"{differing} places or scores differ",
        "none",
        differing == 0,
        differing=differing,
    )
    taken = {"bare": [], "search": []}
    for _ in range(2):
        taken["bare"].append(_clocked(lambda: _bare_product(queries, gallery, task.device)))
        taken["search"].append(
            _clocked(lambda: search([queries], [gallery], [1.0], K, norm_bounds=known, device=task.device))
        )
    bare_s, search_s = min(taken["bare"]), min(taken["search"])
    yield rate(
        task,
        f"exact search, {QUERIES} queries x {count} x {dimensions}",
        f"{search_s:.2f} s; bare product, rows copied to the device {bare_s:.2f} s: {search_s / bare_s:.2f} x",
        f"<= {SEARCH_GOAL} x",
        search_s <= SEARCH_GOAL * bare_s,
        search_s=search_s,
        bare_s=bare_s,
    )
    yield _graph(task, gallery, count)


def _graph(task: Task, gallery: np.ndarray, count: int) -> Row:
    """The graph of the first rows, as many as the time allows; all of them by the square of their number."""
    chosen = min(count, 16_384 if task.on_card else 4096)
    what = f"neighbour graph of {chosen} rows, {NEIGHBOURS} neighbours"
    if task.left_s() < 15:
        return skipped(what, "no time left for it", f"all rows <= {GRAPH_GOAL_S:.0f} s")
    takes_device = "device" in inspect.signature(neighbour_graph).parameters
    where = {"device": task.device} if takes_device else {}
    rows_ = np.array(gallery[:chosen])  # in memory, so that nothing is kept

    def graph() -> None:
        neighbour_graph([rows_], [1.0], NEIGHBOURS, norm_bounds=[UNIT_NORM], **where)

    graph_s = _clocked(graph)
    bare_s = _clocked(lambda: _bare_product(rows_, rows_, task.device))
    all_s = graph_s * (count / chosen) ** 2
    how = "" if takes_device or not task.on_card else ", products on the CPU: it takes no device"
    return rate(
        task,
        what,
        f"{chosen / graph_s:.0f} rows/s{how}; bare product on the device {chosen / bare_s:.0f} rows/s; all {count} "
        f"rows would take {all_s:.0f} s",
        f"all rows <= {GRAPH_GOAL_S:.0f} s",
        all_s <= GRAPH_GOAL_S,
        graph_s=graph_s,
        bare_s=bare_s,
        all_rows_s=all_s,
        on_device=takes_device,
    )


def _written(task: Task, count: int, dimensions: int) -> np.ndarray:
    """Random unit vectors (count, dimensions) float32, drawn on the device, in a file, mapped."""
    path = task.folder / "gallery.npy"
    out = np.lib.format.open_memmap(path, "w+", np.float32, (count, dimensions))
    generator = torch.Generator(task.device).manual_seed(0)
    for start in range(0, count, WRITTEN_ROWS):
        shape = (min(WRITTEN_ROWS, count - start), dimensions)
        block = torch.nn.functional.normalize(torch.randn(shape, generator=generator, device=task.device))
        out[start : start + shape[0]] = block.cpu().numpy()
    out.flush()
    os.sync()  # its writing back is not to fall into what is timed
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
