"""The correct images a recipe misses: the place of each, by how much it falls short, whether any weights help."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas

from competition.atomic import write_text
from features.dumps import Dump
from features.search.similarity import fuse, similarity_blocks
from tuning.candidates import excluded_rows, exclusion_counts
from tuning.objective import PaddedCandidates, ranked_positions


def find_misses(
    padded: PaddedCandidates,
    relevant: Sequence[np.ndarray],
    weights: np.ndarray,
    corners: np.ndarray,
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
) -> pandas.DataFrame:
    """Return every correct image outside the top k under `weights` (L,), a row each, query by query.

    query, row: numbers; short_by: how far its score lies below the k-th; reachable: whether some weights of the region
    may bring it into the top k (where not, none do); place: in the whole gallery, 1 the best (float32, so near ties may
    shift it by a few), 0 for an unreadable image; one pass over the gallery counts them. padded: candidates of all
    labelled queries, every readable relevant image among them; corners: (J, L) vertices; queries, gallery: one dump a
    component.
    """
    best, valid = ranked_positions(padded, weights)
    scores = fuse(padded.similarities, weights)
    missing = []
    for query in range(padded.n_queries):
        there = np.flatnonzero(padded.rows[query] >= 0)
        similarities = padded.similarities[:, query, there].T
        counts = exclusion_counts(similarities @ corners.T, similarities, padded.rows[query, there], padded.k)
        top = best[query][valid[query]]
        for row in map(int, np.unique(relevant[query])):
            position = np.flatnonzero(padded.rows[query, there] == row)
            if not len(position):
                missing.append((query, row, np.nan, np.nan, False))
            elif there[position[0]] not in top:
                score, reachable = scores[query, there[position[0]]], bool(counts[position[0]] < padded.k)
                missing.append((query, row, score, scores[query, top[-1]] - score, reachable))
    found = pandas.DataFrame(missing, columns=["query", "row", "score", "short_by", "reachable"])
    found = found.astype({"query": int, "row": int, "score": float, "short_by": float, "reachable": bool})
    found["place"] = _places(found, weights, queries, gallery) if len(found) else 0
    return found


def _places(
    misses: pandas.DataFrame, weights: np.ndarray, queries: Sequence[Dump], gallery: Sequence[Dump]
) -> np.ndarray:
    """Return the place of each miss among all gallery rows by its score, 1 the best; 0 without a score."""
    excluded, ahead = excluded_rows(gallery), np.zeros(len(misses), dtype=np.int64)
    asked, line = np.unique(misses["query"], return_inverse=True)
    scores, used = misses["score"].to_numpy(), np.flatnonzero(weights).tolist()
    left = [queries[number].descriptors[asked] for number in used]
    rows = int(np.clip((64 << 20) // (4 * len(used) * len(asked)), 64, 8192))
    for start, layers in similarity_blocks(left, [gallery[number].descriptors for number in used], rows):
        fused = reduce(np.add, [np.float32(weights[number]) * layer for number, layer in zip(used, layers)])
        fused[:, excluded[start : start + fused.shape[1]]] = -np.inf
        ahead += [np.count_nonzero(fused[own] > score) for own, score in zip(line, scores)]
    return np.where(np.isnan(scores), 0, ahead + 1)


def write_misses(
    path: Path,
    misses: pandas.DataFrame,
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    private: np.ndarray,
) -> Path:
    """Write the misses as a CSV, one a line, nearest first; returns its path."""
    near = misses.assign(gone=misses["place"] == 0).sort_values(["gone", "place", "query"], kind="stable")
    written = {
        "query": [query_ids[query] for query in near["query"]],
        "part": np.where(private[near["query"]], "private", "public"),
        "missed": [gallery_ids[row] for row in near["row"]],
        "place": [place or "unreadable" for place in near["place"]],
        "short by": ["" if gone else f"{by:.6f}" for gone, by in zip(near["gone"], near["short_by"])],
        "some weights of the region may show it": np.where(near["reachable"], "yes", "no"),
    }
    return write_text(path, pandas.DataFrame(written).to_csv(index=False, lineterminator="\n"))


def misses_text(misses: pandas.DataFrame, n_correct: int, top_k: int) -> str:
    """Return one line on what is missed and why."""
    seen = misses[misses["place"] > 0]
    never, unreadable = int((~seen["reachable"]).sum()), len(misses) - len(seen)
    text = (
        f"missed: {len(misses)} of {n_correct} correct images; {never} of them no weights of the region bring into the "
        f"top {top_k}" + (f", {unreadable} unreadable" if unreadable else "")
    )
    if len(seen):
        near = int((seen["place"] <= 2 * top_k).sum())
        text += f"; median place {seen['place'].median():.0f}, {near} within the first {2 * top_k}"
    return text
