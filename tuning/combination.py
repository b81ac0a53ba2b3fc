"""One combination of discrete choices, looked at once: its S, its region's vertices and its lossless candidates.

Made on first use by one streamed pass over the gallery's dumps and kept under work/candidates, by a digest of the
dumps, the queries, the region and the cut-off; a trial afterwards touches neither dumps nor gallery.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from competition import atomic
from competition.metrics import query_figures
from competition.progress import Progress
from features.components import Component
from features.dumps import Dump, beside, budget, column_sum, seals
from features.search import search
from features.sharding import map_over_shards
from features.similarity import UNIT_NORM, component_similarity, margin, similarity_blocks
from tuning.candidates import Candidates, find_candidates, merged
from tuning.objective import Scene, make_scene
from tuning.objective import average_precisions as scene_precisions
from tuning.region import chain_members, layer_sums, region_chains, vertices
from tuning.running_candidates import FastCoordinates, PrunesBadly

CANDIDATE_LIMIT = 5_000
SAMPLE_RUNS, SAMPLE_RUN = 64, 64  # rows that give the first thresholds
QUERY_BYTES = 200_000  # that a query and component take at most while the gallery streams past (measured)
PASS_BYTES = 512 << 20  # that the queries of one pass take; more queries take more passes
SCENE_BYTES = (
    1 << 30
)  # of one combination's candidates; past that the full lists are recombined at each trial
FORMAT = 1


@dataclass(frozen=True)
class Combination:
    """What a study needs of one combination of choices.

    mean_similarity: (L,) mean cosine over public queries and gallery; sums: S_l as the region reads it;
    corners: (J, L) vertices, (J, 1) where steps joined the components; scene: candidates of all labelled queries, or None where the region prunes badly
    (`stream` then recombines the full lists).
    """

    components: tuple[Component, ...]
    mean_similarity: np.ndarray
    sums: np.ndarray
    chains: tuple[str, ...]
    corners: np.ndarray
    scene: Scene | None
    stream: Callable[[np.ndarray], np.ndarray] | None = None
    seconds: float = 0.0
    mean_candidates: float = 0.0

    def weights(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the weights of barycentric coordinates (J,): one for each component, exactly 1 for a single one."""
        return np.ones(1) if len(self.components) == 1 else coordinates @ self.corners

    def average_precisions(self, weights: np.ndarray) -> np.ndarray:
        """Return AP@k of every labelled query under `weights`, (Q,) float64; exact."""
        if self.scene is not None:
            return scene_precisions(self.scene, weights)
        return self.stream(weights)


def excluded_rows(dumps: Sequence[Dump]) -> np.ndarray:
    """Return (n,) bool: rows that some component could not read; they take part in nothing."""
    excluded = np.zeros(len(dumps[0].ids), dtype=bool)
    for dump in dumps:
        excluded |= dump.unreadable
    return excluded


def mean_similarities(queries: Sequence[Dump], gallery: Sequence[Dump], public: np.ndarray) -> np.ndarray:
    """Return the mean cosine of each component over the public queries and the gallery: S_l / (Q n), (L,) float64."""
    no_query, no_row = excluded_rows(queries), excluded_rows(gallery)
    used = public & ~no_query
    n_pairs = max(1, int(used.sum())) * max(1, int((~no_row).sum()))
    with ThreadPoolExecutor(2) as pool:  # where sums are not kept, reading is what takes the time
        sums = list(pool.map(lambda dump: dump.column_sum(no_row), gallery))
    return np.array(
        [float(column_sum(q.descriptors, ~used) @ total) / n_pairs for q, total in zip(queries, sums)]
    )


def full_precisions(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: np.ndarray,
    relevant: Sequence[np.ndarray],
    k: int,
    metric: str = "map",
) -> np.ndarray:
    """Return AP@k (or the other metric) of every query by the full ranking, (Q,) float64; any weights."""
    found, _ = search(
        [dump.descriptors for dump in queries],
        [dump.descriptors for dump in gallery],
        weights,
        k,
        excluded=excluded_rows(gallery),
    )
    return query_figures(found, relevant, k, metric)


def make_combination(
    components: Sequence[Component],
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    relevant: Sequence[np.ndarray],
    public: np.ndarray,
    k: int,
    region: str,
    folder: Path | None,
    *,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
    metric: str = "map",
) -> Combination:
    """Return the combination of `components`, read from `folder` where it is kept, else made and kept there.

    queries, gallery: one dump a component; relevant: gallery rows per query; public: (Q,) bool, the queries whose
    similarities make S (no label enters). `say` is told when the region prunes badly.
    """
    begun = time.perf_counter()
    key = _digest(components, queries, gallery, relevant, public, k, region)
    path = None if folder is None else Path(folder) / f"{key}.npz"
    kept = _load(path)
    chains = region_chains([component.chain for component in components], region)
    names = [component.name for component in components]
    if kept is None:
        mean_similarity = mean_similarities(queries, gallery, public)
        corners = vertices(layer_sums(mean_similarity, region), chains, names)
        candidates = _candidates(queries, gallery, corners, chains, k, relevant, progress, say)
        _save(path, mean_similarity, candidates)
    else:
        mean_similarity, candidates = kept
        corners = vertices(layer_sums(mean_similarity, region), chains, names)
    sums = layer_sums(mean_similarity, region)
    seconds = time.perf_counter() - begun
    if candidates is not None:
        scene = replace(make_scene(candidates, relevant, k), metric=metric)
        return Combination(
            tuple(components),
            mean_similarity,
            sums,
            chains,
            corners,
            scene,
            None,
            seconds,
            candidates.mean_count,
        )

    def stream(weights: np.ndarray) -> np.ndarray:
        return full_precisions(queries, gallery, weights, relevant, k, metric)

    begun = time.perf_counter()
    stream(np.full(len(components), 1.0 / len(components)))
    say(
        f"the region prunes badly here ({len(components)} components, {region}): each trial recombines the full lists, "
        f"about {time.perf_counter() - begun:.2f} s a trial"
    )
    return Combination(
        tuple(components),
        mean_similarity,
        sums,
        chains,
        corners,
        None,
        stream,
        seconds,
        float(len(gallery[0].ids)),
    )


def _candidates(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    corners: np.ndarray,
    chains: Sequence[str],
    k: int,
    relevant: Sequence[np.ndarray],
    progress: bool,
    say: Callable[[str], None],
) -> Candidates | None:
    """One pass over the gallery for as many queries as memory allows at once; None where the region prunes badly."""
    arrays = [
        np.asarray(dump.descriptors) for dump in gallery
    ]  # plain views: a memmap costs at each indexing
    fast, excluded = FastCoordinates(corners, tuple(chain_members(chains))), excluded_rows(gallery)
    n_queries, size = len(relevant), max(1, PASS_BYTES // (QUERY_BYTES * len(arrays)))
    found: list[Candidates] = []
    total = len(excluded) * -(-n_queries // size)
    with Progress(total=total, unit="row", desc="candidates", shown=progress, leave=False) as bar:
        for first in range(0, n_queries, size):
            part = slice(first, first + size)
            own = [np.ascontiguousarray(dump.descriptors[part]) for dump in queries]
            try:
                found.append(_one_pass(own, arrays, fast, excluded, k, relevant[part], bar, progress))
            except PrunesBadly as error:
                say(f"{error}: not worth keeping")
                return None
            widest = max(len(rows) for candidates in found for rows in candidates.rows)
            if (first + size) * widest * (8 * len(arrays) + 9) > SCENE_BYTES:
                return None
    return Candidates(
        tuple(rows for candidates in found for rows in candidates.rows),
        tuple(values for candidates in found for values in candidates.similarities),
    )


def _one_pass(
    queries: list[np.ndarray],
    arrays: list[np.ndarray],
    fast: FastCoordinates,
    excluded: np.ndarray,
    k: int,
    relevant: Sequence[np.ndarray],
    bar,
    progress: bool,
) -> Candidates:
    shard = partial(_candidates_of_rows, queries, arrays, fast, np.flatnonzero(excluded), k, progress)
    return merged(
        list(map_over_shards(shard, len(excluded), bar.update)),
        partial(_canonical, queries, arrays),
        fast.corners,
        k,
        excluded=excluded,
        always=relevant,
        limit=candidate_limit(len(excluded)),
    )


def _canonical(
    queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray], number: int, rows: np.ndarray
) -> np.ndarray:
    return np.stack([component_similarity(q[number], g[rows]) for q, g in zip(queries, gallery)], axis=1)


def _candidates_of_rows(
    queries: list[np.ndarray],
    arrays: list[np.ndarray],
    fast: FastCoordinates,
    absent: np.ndarray,
    k: int,
    progress: bool,
    first: int,
    last: int,
    done: Callable[[int], object],
) -> Candidates:
    """The candidates among rows first to last of the gallery; absent: rows that take part in nothing."""
    scaled = [(query * scale).astype(np.float32) for query, scale in zip(queries, fast.scale)]
    excluded = np.zeros(len(arrays[0]), dtype=bool)
    excluded[absent] = True
    bounds = np.array(
        [margin(array.shape[1], UNIT_NORM**2 * scale, extra=2) for array, scale in zip(arrays, fast.scale)]
    )
    block_rows = int(np.clip((64 << 20) // (4 * len(arrays) * max(1, len(queries[0]))), 256, 8192))

    def blocks():
        for start, layers in similarity_blocks(scaled, arrays, block_rows, range(first, last)):
            yield start, layers
            done(layers[0].shape[1])

    shown = progress and last - first == len(excluded)
    with Progress(total=len(queries[0]), unit="query", desc="settle", shown=shown, leave=False) as settled:
        return find_candidates(
            blocks(),
            partial(_canonical, queries, arrays),
            fast,
            k,
            n_queries=len(queries[0]),
            similarity_margin=bounds,
            excluded=excluded,
            sample=_sample(scaled, arrays, excluded),
            limit=candidate_limit(len(excluded)),
            ended=settled.update,
        )


def _sample(
    queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray], excluded: np.ndarray
) -> list[np.ndarray]:
    """Return the similarities (Q, m) of short runs of rows from all over the gallery, one array a component."""
    starts = np.unique(np.linspace(0, max(0, len(excluded) - SAMPLE_RUN), SAMPLE_RUNS).astype(np.int64))
    rows = np.unique(starts[:, None] + np.arange(min(SAMPLE_RUN, len(excluded))))
    rows = rows[~excluded[rows]]
    return [np.matmul(q, np.asarray(g[rows], dtype=np.float32).T) for q, g in zip(queries, gallery)]


def candidate_limit(n_rows: int) -> int:
    """Return how many candidates a query may keep before recombining the full lists is the better way."""
    return min(CANDIDATE_LIMIT, max(1000, n_rows // 4))


def _digest(
    components: Sequence[Component],
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    relevant: Sequence[np.ndarray],
    public: np.ndarray,
    k: int,
    region: str,
) -> str:
    described = {
        "format": FORMAT,
        "k": k,
        "region": region,
        "limit": candidate_limit(len(gallery[0].ids)),
        "public": np.flatnonzero(public).tolist(),
        "components": [[component.name, component.chain] for component in components],
        "dumps": [_identity(dump) for dump in [*queries, *gallery]],
        "relevant": [np.asarray(rows).tolist() for rows in relevant],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _identity(dump: Dump) -> str:
    """What tells a dump's rows apart: its text in memory, or the digest of its sidecar and of its rows' sums."""
    if "identity" in dump.sidecar:
        return dump.sidecar["identity"]
    digest = hashlib.sha256(str(dump.descriptors.shape).encode())
    for suffix in (".json", ".sums.npy"):
        path = beside(Path(dump.path), suffix)
        digest.update(path.read_bytes() if path.is_file() else str(dump.path).encode())
    return digest.hexdigest()


def _save(path: Path | None, mean_similarity: np.ndarray, candidates: Candidates | None) -> None:
    if path is None:
        return
    arrays = {"mean_similarity": mean_similarity}
    if candidates is not None:
        arrays["counts"] = np.array([len(rows) for rows in candidates.rows], dtype=np.int64)
        arrays["rows"] = np.concatenate(candidates.rows)
        arrays["similarities"] = np.concatenate(candidates.similarities)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    budget.make_room(stream.tell())
    path.with_suffix(".json").unlink(missing_ok=True)
    atomic.write_bytes(path, stream.getvalue())
    seals.seal(path.with_suffix(".json"), [path], format=FORMAT)


def _load(path: Path | None) -> tuple[np.ndarray, Candidates | None] | None:
    if path is None or seals.whole(path.with_suffix(".json")) is None:
        return None
    seals.touch(path.with_suffix(".json"))
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
        if "counts" not in arrays:
            return arrays["mean_similarity"], None
        ends = np.cumsum(arrays["counts"])[:-1]
        return arrays["mean_similarity"], Candidates(
            tuple(np.split(arrays["rows"], ends)), tuple(np.split(arrays["similarities"], ends))
        )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # removed meanwhile, or too large to be compared with its sum; it can be made again
