"""The neighbour graph of a gallery: every image's k nearest others, exact, computed once and kept like a
dump.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from competition.messages import log
from features.dumps.derived import content_digest, derived
from features.search import search
from features.similarity import BLOCK_ROWS, float32_rows

QUERY_ROWS = 1024  # gallery images looked up in one pass over the gallery


def neighbour_graph(
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    excluded: np.ndarray | None = None,
    folder: Path | None = None,
    identity: Sequence[str] | None = None,
    norm_bounds: Sequence[float] | None = None,
    query_rows: int = QUERY_ROWS,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each gallery image's k nearest others by canonical score: rows (n, k) int32 and scores (n, k)
    float64.

    gallery: L arrays or memmaps (n, D_l); weights (L,); best first, ties to the lower row, -1 and -inf where
    there are no more; excluded (n,) bool: neither rows nor neighbours. The image itself is left out by its
    number, not by its score, so an exact duplicate is a neighbour. folder: where the graph is kept as
    memmaps, resumed block by block (None: in memory only); identity: a text for each component that says
    which rows these are (default: a digest of their bytes). Queries take no part: these are statistics of the
    gallery.
    """
    total = len(gallery[0])
    weights = np.asarray(weights, dtype=np.float64)

    recipe = {"kind": "neighbour graph", "k": k, "weights": weights.tolist(), "format": 1}
    if folder is not None:
        recipe["components"] = (
            list(identity) if identity is not None else [content_digest(part) for part in gallery]
        )
        recipe["excluded"] = [] if excluded is None else np.flatnonzero(excluded).tolist()
    if progress and total > 20_000:
        log.info(
            f"top7: neighbour graph of {total} images, {k} neighbours: about "
            f"{duration(estimated_seconds(gallery, query_rows))} and {total * k * 12 / 1e6:.0f} MB if it is not there "
            "yet; an interrupted run resumes"
        )
    found = derived(
        folder,
        "neighbours",
        recipe,
        total,
        {"rows": (k, "int32"), "scores": (k, "float64")},
        lambda start, stop: graph_block(
            gallery, weights, k, start, stop, excluded=excluded, norm_bounds=norm_bounds
        ),
        block_rows=query_rows,
        progress=progress,
    )
    return found["rows"], found["scores"]


def graph_block(
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    k: int,
    start: int,
    stop: int,
    *,
    excluded: np.ndarray | None = None,
    norm_bounds: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the graph's rows (m, k) int32 and scores (m, k) float64 of the images start to stop, in one pass over the
    gallery; see `neighbour_graph`.
    """
    ranks, scores = search(
        [part[start:stop] for part in gallery],
        gallery,
        weights,
        min(k, len(gallery[0])) + 1,
        excluded=excluded,
        norm_bounds=norm_bounds,
    )
    rows, values = without_self(ranks, scores, start)
    if excluded is not None:
        rows[excluded[start:stop]], values[excluded[start:stop]] = -1, -np.inf
    missing = ((0, 0), (0, k - rows.shape[1]))
    return (
        np.pad(rows, missing, constant_values=-1).astype(np.int32),
        np.pad(values, missing, constant_values=-np.inf),
    )


def without_self(ranks: np.ndarray, scores: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lists (m, k) of rows start, start + 1, … with each row's own number taken out of its k + 1 (or
    the last place, where exact duplicates have crowded it out).
    """
    own = ranks == start + np.arange(len(ranks))[:, None]
    own[~own.any(axis=1), -1] = True
    keep = ~own
    shape = (len(ranks), ranks.shape[1] - 1)
    return ranks[keep].reshape(shape), scores[keep].reshape(shape)


def estimated_seconds(gallery: Sequence[np.ndarray], query_rows: int) -> float:
    """Return the seconds that all products of the gallery with itself take, from timing one block of them."""
    total = len(gallery[0])
    queries = [float32_rows(part[: min(query_rows, total)]) for part in gallery]
    rows = [float32_rows(part[: min(BLOCK_ROWS, total)]) for part in gallery]
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        for q, r in zip(queries, rows):
            np.matmul(q, r.T)
        times.append(time.perf_counter() - begin)
    return min(times[1:]) * total / len(queries[0]) * total / len(rows[0])


def duration(seconds: float) -> str:
    """Return seconds as "45 s", "12 min" or "3.4 h"."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
