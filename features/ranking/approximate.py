"""Approximate indexes (faiss) for galleries past memory; what they find is rescored canonically, their recall
measured.

An index holds the fused vectors [√w_l f_l] for one set of weights:
hnsw: a graph over full vectors, in memory; ivfpq: clustered and compressed, n * (code bytes + 8) in memory;
ivf_ondisk: clustered full vectors in a file that is mapped, so that memory holds the cluster centres only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.atomic import sync_folder, write_json
from competition.errors import ConfigurationError, Top7Error, nearest
from features.ranking.cascade import rerank
from features.ranking.derived import content_digest, digest_of
from features.ranking.measures import concatenated
from features.search import search

BLOCK_ROWS = 8192
SHARD_ROWS = 32_768  # full vectors of an on-disk index held in memory while it is built
SAMPLED_QUERIES = 100  # compared with the exact list, to measure recall


@dataclass(frozen=True)
class Index:
    """A built index: its file, what it was built from, and the gallery rows (m,) its entries stand for."""

    path: Path
    kind: str
    parameters: Mapping[str, int]
    rows: np.ndarray


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of the exact lists (Q, k) that the found ones (Q, k) hold; -1 counts nowhere."""
    hits = (found[:, :, None] == exact[:, None, :]).any(axis=1) & (exact >= 0)
    return float(hits.sum() / max(1, np.sum(exact >= 0)))


def default_parameters(kind: str, rows: int, dimension: int) -> dict[str, int]:
    """Return what an index of `kind` is built and searched with unless told otherwise.

    links, construction, breadth: HNSW's M, efConstruction, efSearch; lists, probes: clusters (4 √n), and how
    many of them a query visits; code_bytes: of a compressed vector (8 or more dimensions a byte); training:
    rows clustered.
    """
    lists = max(1, min(int(4 * rows**0.5), rows // 39))
    width = next(w for w in range(min(8, dimension), dimension + 1) if dimension % w == 0)
    clustered = {
        "lists": lists,
        "probes": max(1, min(lists, 8 + lists // 16)),
        "training": min(rows, 64 * lists),
    }
    known = {
        "hnsw": {"links": 32, "construction": 100, "breadth": 128},
        "ivf_ondisk": clustered,
        "ivfpq": {
            **clustered,
            "code_bytes": dimension // width,
            "training": min(rows, max(64 * lists, 10_000)),
        },
    }
    if kind not in known:
        raise ConfigurationError(f"unknown kind of index {kind!r}: {nearest(kind, known)}")
    return known[kind]


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
    """Build an index of `kind` under `folder`, or open the one that is there for the same rows and
    parameters.

    gallery: L arrays or memmaps (n, D_l), read in blocks; weights (L,) >= 0; excluded (n,) bool: left out;
    parameters: see `default_parameters`. Only complete indexes stand under their final name.
    """
    import faiss

    fused = concatenated(gallery, np.asarray(weights, dtype=np.float64))
    rows = np.arange(len(fused)) if excluded is None else np.flatnonzero(~excluded)
    if not len(rows):
        raise Top7Error("an index of no image at all: every gallery image is unreadable")
    chosen = default_parameters(kind, len(rows), fused.shape[1])
    for name in parameters:
        if name not in chosen:
            raise ConfigurationError(f"an index of kind {kind} has no {name!r}: {nearest(name, chosen)}")
    chosen = {**chosen, **parameters}
    built_with = {key: value for key, value in chosen.items() if key not in ("probes", "breadth")}
    recipe = {
        "kind": kind,
        "parameters": built_with,
        "weights": list(map(float, weights)),
        "seed": seed,
        "components": list(identity) if identity is not None else [content_digest(part) for part in gallery],
        "excluded": [] if excluded is None else np.flatnonzero(excluded).tolist(),
        "faiss": faiss.__version__,
    }
    path = Path(folder) / f"index-{kind}-{digest_of(recipe)}.faiss"
    index = Index(path, kind, chosen, rows)
    sidecar = path.with_suffix(".json")
    if not sidecar.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        BUILDERS[kind](fused, rows, chosen, seed, partial, path, progress)
        os.replace(partial, path)
        sync_folder(path.parent)
        write_json(sidecar, {"format": 1, "recipe": recipe})
    return index


def _blocks(fused, rows: np.ndarray, size: int, progress: bool, label: str):
    from tqdm import tqdm

    with tqdm(total=len(rows), desc=label, unit="row", unit_scale=True, disable=not progress) as bar:
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            yield np.ascontiguousarray(fused[block], dtype=np.float32)
            bar.update(len(block))


def _sample(fused, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    chosen = np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))
    found = np.concatenate(list(_blocks(fused, chosen, BLOCK_ROWS, False, "")))
    return found if len(found) > 1 else np.repeat(found, 2, axis=0)  # a codebook has at least two entries


def _build_hnsw(fused, rows, chosen, seed, partial: Path, path: Path, progress: bool) -> None:
    import faiss

    index = faiss.IndexHNSWFlat(fused.shape[1], chosen["links"], faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = chosen["construction"]
    for block in _blocks(fused, rows, BLOCK_ROWS, progress, "HNSW"):
        index.add(block)
    faiss.write_index(index, str(partial))


def _clustered(index, fused, rows, chosen, seed):
    index.cp.seed = seed + 1234
    index.cp.min_points_per_centroid = 1  # small galleries: no warning, still correct
    index.train(_sample(fused, rows, max(chosen["training"], chosen["lists"]), seed))
    return index


def _build_ivfpq(fused, rows, chosen, seed, partial: Path, path: Path, progress: bool) -> None:
    import faiss

    bits = 8 if len(rows) >= 256 else max(1, int(np.log2(len(rows))))
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
        with _printing_on_stderr():
            merge_ondisk(index, [str(shard) for shard in shards], str(path.with_suffix(".lists")))
        faiss.write_index(index, str(partial))
    finally:
        for shard in shards:
            shard.unlink(missing_ok=True)


@contextmanager
def _printing_on_stderr():
    """faiss prints notes of on-disk lists on standard output, which is for results."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


BUILDERS: dict[str, Callable[..., None]] = {
    "hnsw": _build_hnsw,
    "ivfpq": _build_ivfpq,
    "ivf_ondisk": _build_ondisk,
}


def approximate_search(
    index: Index,
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    candidates: int = 100,
    excluded: np.ndarray | None = None,
    sample: int = SAMPLED_QUERIES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return ranks (Q, k), canonical scores (Q, k) and the recall of the lists against the exact ones.

    The index proposes `candidates` images a query, which are rescored by the canonical score; `sample`
    queries, drawn with `seed`, are searched exactly as well, and the recall@k is printed on stderr.
    """
    import faiss

    weights = np.asarray(weights, dtype=np.float64)
    try:
        with _printing_on_stderr():
            loaded = faiss.read_index(
                str(index.path), faiss.IO_FLAG_ONDISK_SAME_DIR
            )  # the folder may have moved
    except RuntimeError as error:
        raise Top7Error(
            f"{index.path}: not a readable index ({str(error).splitlines()[0][:120]}): remove it with its "
            ".json beside it and build it again"
        ) from None
    if index.kind == "hnsw":
        loaded.hnsw.efSearch = max(index.parameters["breadth"], candidates)
    else:
        loaded.nprobe = index.parameters["probes"]
    fused = np.ascontiguousarray(
        np.asarray(concatenated([np.asarray(q) for q in queries], weights)), dtype=np.float32
    )
    _, found = loaded.search(fused, min(max(candidates, k), len(index.rows)))
    proposed = np.where(found >= 0, index.rows[np.maximum(found, 0)], -1)
    ranks, scores = rerank(queries, gallery, weights, proposed, k)
    checked = np.sort(np.random.default_rng(seed).permutation(len(ranks))[:sample])
    exact, _ = search([np.asarray(q)[checked] for q in queries], gallery, weights, k, excluded=excluded)
    share = recall(ranks[checked], exact)
    print(
        f"top7: approximate search ({index.kind}): recall@{k} {share:.4f} against the exact lists of "
        f"{len(checked)} of {len(ranks)} queries",
        file=sys.stderr,
    )
    return ranks, scores, share
