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
SAMPLE_RUNS, SAMPLE_RUN = 64, 64  # rows that give the first thresholds
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
    n_queries, size = len(relevant), max(1, PASS_BYTES // (QUERY_BYTES * len(arrays)))
    total = len(excluded) * -(-n_queries // size)
    rows: list[np.ndarray] = []
    similarities: list[np.ndarray] = []
    with Progress(total=total, unit="row", desc="candidates", leave=False) as bar:
        for first in range(0, n_queries, size):
            part = slice(first, first + size)
            own = [np.ascontiguousarray(dump.descriptors[part]) for dump in queries]
            shard = partial(_among_rows, own, arrays, fast, np.flatnonzero(excluded), k)
            try:
                found = merged_candidates(
                    list(map_over_shards(shard, len(excluded), bar.update)),
                    partial(_canonical, own, arrays),
                    corners,
                    k,
                    excluded=excluded,
                    always=relevant[part],
                    limit=candidate_limit(len(excluded)),
                )
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
    return find_candidates(
        blocks(),
        partial(_canonical, queries, gallery),
        fast,
        k,
        n_queries=n_queries,
        similarity_margin=np.array(bounds),
        excluded=excluded,
        sample=_sample(scaled, gallery, excluded),
        limit=candidate_limit(len(excluded)),
    )


def _sample(
    queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray], excluded: np.ndarray
) -> list[np.ndarray]:
    """Return the similarities (Q, m) of short runs of rows from all over the gallery, one array a component."""
    starts = np.unique(np.linspace(0, max(0, len(excluded) - SAMPLE_RUN), SAMPLE_RUNS).astype(np.int64))
    rows = np.unique(starts[:, None] + np.arange(min(SAMPLE_RUN, len(excluded))))
    rows = rows[~excluded[rows]]
    return [np.matmul(q, np.asarray(g[rows], dtype=np.float32).T) for q, g in zip(queries, gallery)]
