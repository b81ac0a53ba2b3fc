"""The neighbour graph of a gallery: every image's k nearest others, exact, computed once and kept like a dump."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from competition.messages import duration, log
from features.dumps.derived import content_digest, derived
from features.search.exact_search import search
from features.search.factors import Factors, chosen
from features.search.sharding import shared_out
from features.search.symmetric_graph import SymmetricGraph
from features.search.threads import thread_count, threads

WINDOW_ROWS = 8192  # gallery images whose neighbours are looked up in one pass over the gallery
LARGE = 20_000  # gallery images from which on half of the products pays for what it takes to share them
PAIR_S = 2.5e-6  # one contender's way from a product to its place on one processor


def neighbour_graph(
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    excluded: np.ndarray | None = None,
    folder: Path | None = None,
    identity: Sequence[str] | None = None,
    unit: bool = False,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each gallery image's k nearest others by canonical score: rows (n, k) int32 and scores (n, k) float64.

    gallery: L arrays or memmaps (n, D_l); weights (L,); best first, ties to the lower row, -1 and -inf where
    there are no more; excluded (n,) bool: neither rows nor neighbours. The image itself is left out by its
    number, not by its score, so an exact duplicate is a neighbour. folder: where the graph is kept as
    memmaps, resumed window by window (None: in memory only); identity: a text for each component that says
    which rows these are (default: a digest of their bytes); unit: as in `search`. Queries take no part: these are
    statistics of the gallery.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = len(gallery[0])
    absent = np.zeros(total, bool) if excluded is None else np.asarray(excluded, bool)
    windows = [range(total)[start : start + WINDOW_ROWS] for start in range(0, total, WINDOW_ROWS)]

    recipe = {"kind": "neighbour graph", "k": k, "weights": weights.tolist(), "format": 1}
    if folder is not None:
        recipe["components"] = list(identity or map(content_digest, gallery))
        recipe["excluded"] = np.flatnonzero(absent).tolist()
    fast = total >= LARGE and not shared_out(total)

    @cache
    def factors() -> tuple[Factors, float]:
        return chosen(gallery, weights, absent)

    if progress and total >= LARGE:
        time = "by the cluster's workers,"
        if fast:
            rows, rate = factors()
            products_s = 1.1 * total**2 * len(rows.centre) / rate
            contenders_s = total * (20 + 2 * k) * PAIR_S / thread_count()
            time = f"about {duration(products_s + contenders_s)} and"
        log.info(
            f"top7: neighbour graph of {total} images, {k} neighbours: {time} {total * k * 12 / 1e6:.0f} MB if it is "
            "not there yet; an interrupted run resumes"
        )
    with ExitStack() as stack:

        @cache
        def graph() -> SymmetricGraph:
            return SymmetricGraph(factors()[0], k, windows, stack.enter_context(threads()))

        def computed(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            if fast:
                return graph().window(start, stop)
            return graph_block(gallery, weights, k, start, stop, absent, unit)

        def pairs(start: int, stop: int) -> int:
            """Return how many pairs have no score yet when the window of these rows comes."""
            return (stop - start) * (2 * total - start - stop) // 2 if fast else (stop - start) * total

        columns = {"rows": (k, "int32"), "scores": (k, "float64")}
        more: dict[str, Any] = {"block_rows": WINDOW_ROWS, "progress": progress, "effort": ("pair", pairs)}
        found = derived(folder, "neighbours", recipe, total, columns, computed, **more)
    return found["rows"], found["scores"]


def graph_block(
    gallery: Sequence[np.ndarray],
    weights: np.ndarray,
    k: int,
    start: int,
    stop: int,
    excluded: np.ndarray,
    unit: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (m, k) int32 and scores (m, k) float64 of the graph for the images start to stop.

    In one pass over the gallery; see `neighbour_graph`.
    """
    own = [part[start:stop] for part in gallery]
    found = search(own, gallery, weights, min(k, len(excluded)) + 1, excluded=excluded, unit=unit)
    rows, scores = without_self(*found, start)
    rows[excluded[start:stop]], scores[excluded[start:stop]] = -1, -np.inf
    missing = ((0, 0), (0, k - rows.shape[1]))
    padded = np.pad(rows, missing, constant_values=-1).astype(np.int32)
    return padded, np.pad(scores, missing, constant_values=-np.inf)


def without_self(ranks: np.ndarray, scores: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lists (m, k) of rows start, start + 1, … with each row's own number taken out of its k + 1.

    The last place is taken out where exact duplicates have crowded the row itself out.
    """
    own = ranks == start + np.arange(len(ranks))[:, None]
    own[~own.any(axis=1), -1] = True
    keep = ~own
    shape = (len(ranks), ranks.shape[1] - 1)
    return ranks[keep].reshape(shape), scores[keep].reshape(shape)
