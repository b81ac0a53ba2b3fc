"""The correct images a recipe misses: the place of each, by how much it falls short, whether any weights help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pandas

from competition.atomic import write_text
from features.dumps import Dump
from features.search.similarity import fuse, similarity_blocks
from tuning.candidates import exclusion_counts
from tuning.gallery_pass import excluded_rows
from tuning.objective import PaddedCandidates, ranked_positions


@dataclass(frozen=True)
class Miss:
    """A correct image outside the top k.

    query, row: numbers; place: in the whole gallery, 1 the best (float32, so near ties may shift it by a
    few), 0 for an unreadable image; short_by: how far its score lies below the k-th; reachable: whether some
    weights of the region may bring it into the top k (where not, none do).
    """

    query: int
    row: int
    place: int
    short_by: float
    reachable: bool


def find_misses(
    padded: PaddedCandidates,
    relevant: Sequence[np.ndarray],
    weights: np.ndarray,
    corners: np.ndarray,
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
) -> list[Miss]:
    """Return every miss under `weights` (L,), query by query; one pass over the gallery counts the places.

    padded: candidates of all labelled queries, every readable relevant image among them; corners: (J, L)
    vertices; queries, gallery: one dump a component.
    """
    best, valid = ranked_positions(padded, weights)
    scores = fuse(padded.similarities, weights)
    missing: list[tuple[int, int, float, float, bool]] = []
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
    wanted = [(query, score) for query, _, score, _, _ in missing]
    places = _places(wanted, weights, queries, gallery)
    return [
        Miss(query, row, 0 if np.isnan(score) else place, float(short_by), reachable)
        for (query, row, score, short_by, reachable), place in zip(missing, places)
    ]


def _places(
    wanted: Sequence[tuple[int, float]], weights: np.ndarray, queries: Sequence[Dump], gallery: Sequence[Dump]
) -> list[int]:
    """Return the place of each (query, score) among all gallery rows, 1 the best."""
    excluded = excluded_rows(gallery)
    ahead = np.zeros(len(wanted), dtype=np.int64)
    if not len(wanted):
        return []
    asked = sorted({query for query, _ in wanted})
    used = np.flatnonzero(weights).tolist()
    left = [queries[number].descriptors[asked] for number in used]
    rows = int(np.clip((64 << 20) // (4 * len(used) * len(asked)), 64, 8192))
    index = {query: place for place, query in enumerate(asked)}
    for start, layers in similarity_blocks(left, [gallery[number].descriptors for number in used], rows):
        fused = reduce(np.add, [np.float32(weights[number]) * layer for number, layer in zip(used, layers)])
        fused[:, excluded[start : start + fused.shape[1]]] = -np.inf
        for number, (query, score) in enumerate(wanted):
            ahead[number] += np.count_nonzero(fused[index[query]] > score)
    return (ahead + 1).tolist()


def write_misses(
    path: Path,
    misses: Sequence[Miss],
    query_ids: Sequence[str],
    gallery_ids: Sequence[str],
    private: np.ndarray,
) -> Path:
    """Write the misses as a CSV, one a line, nearest first; returns its path."""
    heads = ["query", "part", "missed", "place", "short by", "some weights of the region may show it"]
    rows = []
    for miss in sorted(misses, key=lambda miss: (miss.place == 0, miss.place, miss.query)):
        part = "private" if private[miss.query] else "public"
        place, short_by = (miss.place, f"{miss.short_by:.6f}") if miss.place else ("unreadable", "")
        told = place, short_by, "yes" if miss.reachable else "no"
        rows.append([query_ids[miss.query], part, gallery_ids[miss.row], *told])
    return write_text(path, pandas.DataFrame(rows, columns=heads).to_csv(index=False, lineterminator="\n"))


def misses_text(misses: Sequence[Miss], n_correct: int, top_k: int) -> str:
    """Return one line on what is missed and why."""
    seen = [miss for miss in misses if miss.place]
    never = sum(not miss.reachable for miss in seen)
    text = (
        f"missed: {len(misses)} of {n_correct} correct images; {never} of them no weights of the region bring into the "
        f"top {top_k}" + (f", {len(misses) - len(seen)} unreadable" if len(seen) < len(misses) else "")
    )
    if seen:
        near = sum(miss.place <= 2 * top_k for miss in seen)
        text += f"; median place {np.median([miss.place for miss in seen]):.0f}, {near} within the first {2 * top_k}"
    return text
