"""Builders of approximate indexes (faiss), a block of the gallery at a time; see features/ranking/indexing.py."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from competition.progress import Progress

READ_ROWS = 2048  # gallery rows in float64 at once
BLOCK_ROWS = 8192
SHARD_ROWS = 32_768  # full vectors of an on-disk index held in memory while it is built


def lists_of(path: Path) -> Path:
    """Return the file of an on-disk index's lists, beside the index itself."""
    return path.with_suffix(".lists")


def _blocks(fused, rows: np.ndarray, size: int, progress: bool, label: str):
    with Progress(total=len(rows), desc=label, unit="row", unit_scale=True, shown=progress) as bar:
        for start in range(0, len(rows), size):
            block = _read(fused, rows[start : start + size])
            yield block
            bar.update(len(block))


def _read(fused, rows: np.ndarray) -> np.ndarray:
    """Return rows of the fused vectors, float32; the float64 they are computed in is held for a few rows only."""
    found = np.empty((len(rows), fused.shape[1]), np.float32)
    for start in range(0, len(rows), READ_ROWS):
        found[start : start + READ_ROWS] = fused[rows[start : start + READ_ROWS]]
    return found


def sample_rows(fused, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    found = _read(
        fused, np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))
    )
    return found if len(found) > 1 else np.repeat(found, 2, axis=0)  # a codebook has at least two entries


def empty_hnsw(dimension: int, chosen: Mapping[str, int]):
    import faiss

    index = faiss.IndexHNSWFlat(dimension, chosen["links"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = chosen["construction"]
    return index


def _build_hnsw(fused, rows, chosen, seed, partial: Path, path: Path, progress: bool) -> None:
    import faiss

    index = empty_hnsw(fused.shape[1], chosen)
    for block in _blocks(fused, rows, BLOCK_ROWS, progress, "HNSW"):
        index.add(block)
    faiss.write_index(index, str(partial))


def _clustered(index, fused, rows, chosen, seed):
    index.cp.seed = seed + 1234
    index.cp.min_points_per_centroid = 1  # small galleries: no warning, still correct
    index.train(sample_rows(fused, rows, max(chosen["training"], chosen["lists"]), seed))
    return index


def _build_ivfpq(fused, rows, chosen, seed, partial: Path, path: Path, progress: bool) -> None:
    import faiss

    trained = min(len(rows), max(chosen["training"], chosen["lists"]))
    bits = 8 if trained >= 256 else max(1, int(np.log2(trained)))
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(fused.shape[1]),
        fused.shape[1],
        chosen["lists"],
        chosen["code_bytes"],
        bits,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.pq.cp.min_points_per_centroid = 1
    _clustered(index, fused, rows, chosen, seed)
    for block in _blocks(fused, rows, BLOCK_ROWS, progress, "IVF-PQ"):
        index.add(block)
    faiss.write_index(index, str(partial))


def _build_ondisk(fused, rows, chosen, seed, partial: Path, path: Path, progress: bool) -> None:
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(fused.shape[1]), fused.shape[1], chosen["lists"], faiss.METRIC_INNER_PRODUCT
    )
    _clustered(index, fused, rows, chosen, seed)
    empty, shards, start = faiss.serialize_index(index), [], 0
    try:
        for block in _blocks(fused, rows, SHARD_ROWS, progress, "IVF on disk"):
            shard = faiss.deserialize_index(empty)
            shard.add_with_ids(block, np.arange(start, start + len(block)))
            shards.append(path.with_name(f"{path.name}.shard-{len(shards)}.partial"))
            faiss.write_index(shard, str(shards[-1]))
            start += len(block)
        with without_notes():
            merge_ondisk(index, [str(shard) for shard in shards], str(lists_of(path)))
        faiss.write_index(index, str(partial))
    finally:
        for shard in shards:
            shard.unlink(missing_ok=True)


@contextmanager
def without_notes():
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


BUILDERS: dict[str, Callable[..., None]] = {
    "hnsw": _build_hnsw,
    "ivfpq": _build_ivfpq,
    "ivf_ondisk": _build_ondisk,
}
