"""Approximate indexes (faiss) of a gallery, built once and kept under a name that says of what.

An index holds the fused vectors [√w_l f_l] for one set of weights:
hnsw: a graph over full vectors, all in memory while it is built, memory-mapped when searched; ivfpq: clustered and
compressed, n * (code bytes + 8) in memory; ivf_ondisk: clustered full vectors in a file that is mapped, so that
memory holds the cluster centres only.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from competition.atomic import sync_folder
from competition.errors import ConfigurationError, Top7Error, nearest
from competition.messages import duration, log
from features.dumps import seals
from features.dumps.derived import content_digest, digest_of, made_once, note_files
from features.search.faiss_builders import BUILDERS, Chosen, empty_hnsw, lists_of, sample_of
from features.search.row_views import RowView, concatenated

TIMED_ROWS = 3000  # give the estimate
PARAMETERS = {
    "hnsw": ("links", "construction", "breadth", "threads"),
    "ivfpq": ("lists", "probes", "training", "code_bytes", "threads"),
    "ivf_ondisk": ("lists", "probes", "training", "threads"),
}
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
    sample = sample_of(fused, rows, TIMED_ROWS if kind == "hnsw" else 1000, 0)
    count, last = len(rows), -(-len(sample) // 3)
    with threadpool_limits(chosen["threads"]):
        if kind == "hnsw":
            graph = empty_hnsw(fused.shape[1], chosen)
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
