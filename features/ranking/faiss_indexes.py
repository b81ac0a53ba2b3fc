"""Approximate indexes (faiss) of a gallery, built once and kept under a name that says of what.

An index holds the fused vectors [√w_l f_l] for one set of weights:
hnsw: a graph over full vectors, all in memory while it is built, memory-mapped when searched; ivfpq: clustered and
compressed, n * (code bytes + 8) in memory; ivf_ondisk: clustered full vectors in a file that is mapped, so that
memory holds the cluster centres only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from competition.atomic import sync_folder
from competition.durations import duration
from competition.errors import ConfigurationError, Top7Error, nearest
from competition.messages import log
from competition.progress import Progress
from features.dumps import seals
from features.dumps.derived import content_digest, digest_of, made_once, note_files
from features.ranking.views import RowView, concatenated

READ_ROWS = 2048  # gallery rows in float64 at once
BLOCK_ROWS = 8192
SHARD_ROWS = 32_768  # full vectors of an on-disk index held in memory while it is built
TIMED_ROWS = 3000  # give the estimate
PARAMETERS = {
    "hnsw": ("links", "construction", "breadth", "threads"),
    "ivfpq": ("lists", "probes", "training", "code_bytes", "threads"),
    "ivf_ondisk": ("lists", "probes", "training", "threads"),
}
Chosen = Mapping[str, int]  # parameters
SEARCHED_WITH = ("probes", "breadth")  # the others are built in


@dataclass(frozen=True)
class Index:
    """A built index: its file, what it was built from, and the gallery rows (m,) its entries describe."""

    path: Path
    kind: str
    parameters: Mapping[str, int]
    rows: np.ndarray


def check_parameters(kind: str, parameters: Mapping[str, object]) -> None:
    """Raise ConfigurationError for an unknown kind of index, or one that has no such parameter."""
    if kind not in PARAMETERS:
        raise ConfigurationError(f"unknown kind of index {kind!r}: {nearest(kind, PARAMETERS)}")
    for name in parameters:
        if name not in PARAMETERS[kind]:
            raise ConfigurationError(
                f"an index of kind {kind} has no {name!r}: {nearest(name, PARAMETERS[kind])}"
            )


def default_parameters(kind: str, rows: int, dimension: int) -> dict[str, int]:
    """Return what an index of `kind` is built and searched with unless told otherwise.

    links, construction, breadth: HNSW's M, efConstruction, efSearch; lists, probes: clusters (4 √n), and how
    many of them a query visits; code_bytes: of a compressed vector (8 or more dimensions a byte); training:
    rows clustered; threads: that build (one gives the same index every time; HNSW by several another graph each).
    """
    check_parameters(kind, {})
    lists = max(1, min(int(4 * rows**0.5), rows // 39))
    width = next(w for w in range(min(8, dimension), dimension + 1) if dimension % w == 0)
    known = {
        "links": 32,
        "construction": 100,
        "breadth": 128,
        "lists": lists,
        "probes": max(1, min(lists, 8 + lists // 16)),
        "training": min(rows, max(64 * lists, 10_000 if kind == "ivfpq" else 1)),
        "code_bytes": dimension // width,
        "threads": 1,
    }
    return {name: known[name] for name in PARAMETERS[kind]}


def build_index(
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    kind: str,
    folder: Path,
    *,
    excluded: np.ndarray | None = None,
    identity: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    **parameters: int,
) -> Index:
    """Build an index of `kind` under `folder`, or open the one that is there for the same rows and parameters.

    gallery: L arrays or memmaps (n, D_l), read in blocks; weights (L,) >= 0; excluded (n,) bool: left out;
    identity: a text for each component that says which rows these are (default: a digest of their bytes);
    parameters: see `default_parameters`. Only complete indexes have their final name; of several processes
    one builds, the others wait. A line on stderr says what will be built, with an estimate.
    """
    import faiss

    check_parameters(kind, parameters)
    fused = concatenated(gallery, np.asarray(weights, dtype=np.float64))
    rows = np.arange(len(fused)) if excluded is None else np.flatnonzero(~excluded)
    if not len(rows):
        raise Top7Error("an index of no image at all: every gallery image is unreadable")
    chosen = {**default_parameters(kind, len(rows), fused.shape[1]), **parameters}
    _check_fit(chosen, len(rows), fused.shape[1])
    recipe = {
        "kind": kind,
        "parameters": {key: value for key, value in chosen.items() if key not in SEARCHED_WITH},
        "weights": list(map(float, weights)),
        "seed": seed,
        "components": list(identity or map(content_digest, gallery)),
        "excluded": [] if excluded is None else np.flatnonzero(excluded).tolist(),
        "faiss": faiss.__version__,
    }
    path = Path(folder) / f"index-{kind}-{digest_of(recipe)}.faiss"
    sidecar = path.with_suffix(".json")
    files = [path, *([lists_of(path)] if kind == "ivf_ondisk" else [])]

    def make() -> None:
        sidecar.unlink(missing_ok=True)
        _build(fused, rows, kind, chosen, seed, path, progress)
        seals.seal(sidecar, files, format=2, recipe=recipe)

    made_once(path, lambda: seals.intact(sidecar), make)
    seals.touch(sidecar)
    note_files(sidecar, *files)
    return Index(path, kind, chosen, rows)


def _check_fit(chosen: Chosen, rows: int, dimension: int) -> None:
    if chosen.get("lists", 1) > rows:
        raise ConfigurationError(
            f"an index of {chosen['lists']} lists for {rows} images: expected at most {rows}"
        )
    if dimension % chosen.get("code_bytes", 1):
        fitting = [count for count in range(1, dimension + 1) if dimension % count == 0]
        near = sorted(sorted(fitting, key=lambda count: abs(count - chosen["code_bytes"]))[:4])
        raise ConfigurationError(
            f"an index has code_bytes = {chosen['code_bytes']}: expected a number that divides the "
            f"{dimension} dimensions, such as {', '.join(map(str, near))}"
        )


def _build(
    fused: RowView, rows: np.ndarray, kind: str, chosen: Chosen, seed: int, path: Path, progress: bool
) -> None:
    """Write the index's file; what is half written goes by other names."""
    import faiss

    needed, free = _bytes(kind, chosen, len(rows), fused.shape[1]), shutil.disk_usage(path.parent).free
    log.info(
        f"top7: index {kind} of {len(rows)} images x {fused.shape[1]}, built once: about "
        f"{duration(_estimated_seconds(fused, rows, kind, chosen))}, {needed / 1e6:.1f} MB in {path.parent}"
        + (" and as much memory" if kind == "hnsw" else "")
    )
    if needed > free:
        raise Top7Error(
            f"{path.parent}: an index of kind {kind} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: "
            "free some space, take ivfpq, or give another --work"
        )
    partial = path.with_name(path.name + ".partial")
    try:
        with threadpool_limits(chosen["threads"]):
            index = BUILDERS[kind](fused, rows, chosen, seed, path, progress or len(rows) > 20_000)
            faiss.write_index(index, str(partial))
    except RuntimeError as error:  # faiss's own, a full disk among them
        partial.unlink(missing_ok=True)
        raise Top7Error(
            f"{path}: the index could not be built: {str(error).splitlines()[-1][:160]}: run the same command "
            "again once that is mended"
        ) from None
    os.replace(partial, path)
    sync_folder(path.parent)


def _bytes(kind: str, chosen: Chosen, rows: int, dimension: int) -> int:
    """Return what building writes at most, on-disk lists and the shards they are merged from."""
    if kind == "hnsw":
        return rows * (4 * dimension + 8 * chosen["links"] + 32)
    entry = chosen["code_bytes"] + 8 if kind == "ivfpq" else 2 * (4 * dimension + 8)
    return rows * entry + 4 * dimension * (chosen["lists"] + 256)


def _estimated_seconds(fused: RowView, rows: np.ndarray, kind: str, chosen: Chosen) -> float:
    """Return about how long building takes.

    HNSW: by the last third of a sample's, growing with the logarithm; clustering: by the rate of the bare product, of
    which k-means (10 rounds) reaches half, codebooks (25) a quarter.
    """
    sample = _sample(fused, rows, TIMED_ROWS if kind == "hnsw" else 1000, 0)
    count, last = len(rows), -(-len(sample) // 3)
    with threadpool_limits(chosen["threads"]):
        if kind == "hnsw":
            graph = _empty_hnsw(fused.shape[1], chosen)
            graph.add(sample[:-last])
            begin = time.perf_counter()
            graph.add(sample[-last:])
            return (time.perf_counter() - begin) / last * count * np.log(count + 1) / np.log(len(sample) + 1)
        begin = time.perf_counter()
        sample @ sample.T
        row_s = (time.perf_counter() - begin) / len(sample) ** 2
    products = 2 * (10 * chosen["training"] + count) * chosen["lists"]
    if kind == "ivfpq":
        products += 4 * (25 * min(chosen["training"], 65_536) + count) * 256
    return products * row_s


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


def _sample(fused: RowView, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    found = _read(
        fused, np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))
    )
    return found if len(found) > 1 else np.repeat(found, 2, axis=0)  # a codebook has at least two entries


def _empty_hnsw(dimension: int, chosen: Chosen) -> Any:
    import faiss

    index = faiss.IndexHNSWFlat(dimension, chosen["links"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = chosen["construction"]
    return index


def _build_hnsw(fused: RowView, rows: np.ndarray, chosen: Chosen, seed: int, path: Path, shown: bool) -> Any:
    index = _empty_hnsw(fused.shape[1], chosen)
    for block in _blocks(fused, rows, BLOCK_ROWS, shown, "HNSW"):
        index.add(block)
    return index


def _cluster(index: Any, fused: RowView, rows: np.ndarray, chosen: Chosen, seed: int) -> None:
    """Train an index on a sample of the rows."""
    index.cp.seed = seed + 1234
    index.cp.min_points_per_centroid = 1  # small galleries: no warning, still correct
    index.train(_sample(fused, rows, max(chosen["training"], chosen["lists"]), seed))


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
