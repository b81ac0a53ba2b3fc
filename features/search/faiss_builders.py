"""The three kinds of index, each built by faiss block after block, so that memory holds what the kind says and a block."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from competition.progress import Progress
from features.search.row_views import RowView

READ_ROWS = 2048  # gallery rows in float64 at once
BLOCK_ROWS = 8192
SHARD_ROWS = 32_768  # full vectors of an on-disk index held in memory while it is built
Chosen = Mapping[str, int]  # parameters


def lists_of(path: Path) -> Path:
    """Return the file of an on-disk index's lists, beside the index itself."""
    return path.with_suffix(".lists")


def _blocks(fused: RowView, rows: np.ndarray, size: int, progress: bool, label: str) -> Iterator[np.ndarray]:
    """Yield rows of the fused vectors, float32, `size` at a time."""
    with Progress(total=len(rows), desc=label, unit="row", unit_scale=True, shown=progress) as bar:
        for start in range(0, len(rows), size):
            block = _read(fused, rows[start : start + size])
            yield block
            bar.update(len(block))


def _read(fused: RowView, rows: np.ndarray) -> np.ndarray:
    """Return rows of the fused vectors, float32; the float64 they are computed in is held for a few rows only."""
    found = np.empty((len(rows), fused.shape[1]), np.float32)
    for start in range(0, len(rows), READ_ROWS):
        found[start : start + READ_ROWS] = fused[rows[start : start + READ_ROWS]]
    return found


def sample_of(fused: RowView, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return at most `count` fused vectors of `rows`, drawn by seed, (m, D) float32; two at the least."""
    found = _read(
        fused, np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))
    )
    return found if len(found) > 1 else np.repeat(found, 2, axis=0)  # a codebook has at least two entries


def empty_hnsw(dimension: int, chosen: Chosen) -> Any:
    """Return faiss's graph without an entry."""
    import faiss

    index = faiss.IndexHNSWFlat(dimension, chosen["links"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = chosen["construction"]
    return index


def _build_hnsw(fused: RowView, rows: np.ndarray, chosen: Chosen, seed: int, path: Path, shown: bool) -> Any:
    index = empty_hnsw(fused.shape[1], chosen)
    for block in _blocks(fused, rows, BLOCK_ROWS, shown, "HNSW"):
        index.add(block)
    return index


def _cluster(index: Any, fused: RowView, rows: np.ndarray, chosen: Chosen, seed: int) -> None:
    """Train an index on a sample of the rows."""
    index.cp.seed = seed + 1234
    index.cp.min_points_per_centroid = 1  # small galleries: no warning, still correct
    index.train(sample_of(fused, rows, max(chosen["training"], chosen["lists"]), seed))


def _build_ivfpq(fused: RowView, rows: np.ndarray, chosen: Chosen, seed: int, path: Path, shown: bool) -> Any:
    import faiss

    trained = min(len(rows), max(chosen["training"], chosen["lists"]))
    bits = 8 if trained >= 256 else max(1, int(np.log2(trained)))
    shape = chosen["lists"], chosen["code_bytes"], bits, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(fused.shape[1]), fused.shape[1], *shape)
    index.pq.cp.min_points_per_centroid = 1
    _cluster(index, fused, rows, chosen, seed)
    for block in _blocks(fused, rows, BLOCK_ROWS, shown, "IVF-PQ"):
        index.add(block)
    return index


def _build_ondisk(
    fused: RowView, rows: np.ndarray, chosen: Chosen, seed: int, path: Path, shown: bool
) -> Any:
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    quantiser, shape = faiss.IndexFlatIP(fused.shape[1]), (fused.shape[1], chosen["lists"])
    index = faiss.IndexIVFFlat(quantiser, *shape, faiss.METRIC_INNER_PRODUCT)
    _cluster(index, fused, rows, chosen, seed)
    empty, start = faiss.serialize_index(index), 0
    shards: list[Path] = []
    try:
        for block in _blocks(fused, rows, SHARD_ROWS, shown, "IVF on disk"):
            part = faiss.deserialize_index(empty)
            part.add_with_ids(block, np.arange(start, start + len(block)))
            shards.append(path.with_name(f"{path.name}.shard-{len(shards)}.partial"))
            faiss.write_index(part, str(shards[-1]))
            start += len(block)
        with without_notes():
            merge_ondisk(index, [str(shard) for shard in shards], str(lists_of(path)))
    finally:
        for shard in shards:
            shard.unlink(missing_ok=True)
    return index


@contextmanager
def without_notes() -> Iterator[None]:
    """faiss prints notes of on-disk lists on standard output, which is for results: inside they go nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C keeps in its own buffer
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


BUILDERS: dict[str, Callable[..., Any]] = {
    "hnsw": _build_hnsw,
    "ivfpq": _build_ivfpq,
    "ivf_ondisk": _build_ondisk,
}
