"""The pass over the gallery that finds the candidates of all queries of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from competition.messages import log
from competition.progress import Progress
from features.dumps import Dump
from features.search.sharding import map_over_shards
from features.search.similarity import UNIT_NORM, component_similarity, margin, similarity_blocks
from tuning.candidates import Candidates, find_candidates, merged_candidates
from tuning.region import chain_members
from tuning.running_candidates import FastCoordinates, PrunesBadly

CANDIDATE_LIMIT = 5_000
QUERY_BYTES = 200_000  # that a query and component take at most during a pass (measured)
PASS_BYTES = 512 << 20  # that the queries of one pass take; more queries take more passes
SCENE_BYTES = 1 << 30  # of one combination's candidates; past that each trial ranks the whole gallery


def excluded_rows(dumps: Sequence[Dump]) -> np.ndarray:
    """Return (n,) bool: rows that some component could not read; they take part in nothing."""
    return np.logical_or.reduce([dump.unreadable for dump in dumps])


def candidate_limit(n_rows: int) -> int:
    """Return how many candidates a query may keep before ranking the whole gallery is the better way."""
    return min(CANDIDATE_LIMIT, max(1000, n_rows // 4))


def pass_over_gallery(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    corners: np.ndarray,
    chains: Sequence[str],
    k: int,
    relevant: Sequence[np.ndarray],
) -> Candidates | None:
    """Return the candidates of all queries, as many at once as memory allows; None where the region prunes badly."""
    arrays = [np.asarray(dump.descriptors) for dump in gallery]  # a memmap costs at each indexing
    fast, excluded = FastCoordinates(corners, tuple(chain_members(chains))), excluded_rows(gallery)
    size, limit = max(1, PASS_BYTES // (QUERY_BYTES * len(arrays))), candidate_limit(len(excluded))
    passes = range(0, len(relevant), size)
    rows: list[np.ndarray] = []
    similarities: list[np.ndarray] = []
    with Progress(total=len(excluded) * len(passes), unit="row", desc="candidates", leave=False) as bar:
        for first in passes:
            part = slice(first, first + size)
            own = [np.ascontiguousarray(dump.descriptors[part]) for dump in queries]
            shard = partial(_among_rows, own, arrays, fast, np.flatnonzero(excluded), k)
            canonical, always = partial(_canonical, own, arrays), relevant[part]
            try:
                shards = list(map_over_shards(shard, len(excluded), bar.update))
                found = merged_candidates(shards, canonical, corners, k, excluded, always, limit)
            except PrunesBadly as error:
                log.info(f"{error}: candidates are not kept")
                return None
            rows += found.rows
            similarities += found.similarities
            if (first + size) * max(map(len, rows)) * (8 * len(arrays) + 9) > SCENE_BYTES:
                return None
    return Candidates(tuple(rows), tuple(similarities))


def _canonical(
    queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray], number: int, rows: np.ndarray
) -> np.ndarray:
    return np.stack([component_similarity(q[number], g[rows]) for q, g in zip(queries, gallery)], axis=1)


def _among_rows(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    fast: FastCoordinates,
    absent: np.ndarray,
    k: int,
    first: int,
    last: int,
    done: Callable[[int], object],
) -> Candidates:
    """The candidates among rows first to last of the gallery; absent: rows that take part in nothing."""
    scaled = [(query * scale).astype(np.float32) for query, scale in zip(queries, fast.scale)]
    n_queries, excluded = len(queries[0]), np.zeros(len(gallery[0]), dtype=bool)
    excluded[absent] = True
    block_rows = int(np.clip((64 << 20) // (4 * len(gallery) * max(1, n_queries)), 256, 8192))

    def blocks() -> Iterator[tuple[int, Sequence[np.ndarray]]]:
        for start, layers in similarity_blocks(scaled, gallery, block_rows, range(first, last)):
            yield start, layers
            done(layers[0].shape[1])

    bounds = [margin(g.shape[1], UNIT_NORM**2 * scale, extra=2) for g, scale in zip(gallery, fast.scale)]
    canonical, limit = partial(_canonical, queries, gallery), candidate_limit(len(excluded))
    return find_candidates(blocks(), canonical, fast, k, n_queries, np.array(bounds), excluded, limit)
