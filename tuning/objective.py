"""Weights in, MAP@k (or recall@k, precision@k) out: one pure function over the candidates' canonical similarities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from competition.errors import Top7Error
from competition.metrics import figures_of_hits
from features.search.similarity import fuse
from tuning.candidates import Candidates


@dataclass(frozen=True)
class PaddedCandidates:
    """The candidates of all queries as padded arrays, ready for thousands of evaluations.

    similarities: (L, Q, n) float64, rows: (Q, n) int64 ascending, -1 padding; relevant: (Q, n) bool;
    n_relevant: (Q,) int64, the correct gallery images of each query; k: cut-off; weight: (Q,) float64, of
    each query in the mean, None for equal ones; metric: of `competition.metrics`.
    """

    similarities: np.ndarray
    rows: np.ndarray
    relevant: np.ndarray
    n_relevant: np.ndarray
    k: int
    weight: np.ndarray | None = None
    metric: str = "map"

    @property
    def n_queries(self) -> int:
        """Number of queries."""
        return len(self.rows)

    def of_queries(self, queries: np.ndarray) -> PaddedCandidates:
        """Return the padded of a subset of the queries (mask or indices, repeats allowed)."""
        parts = {name: getattr(self, name)[queries] for name in ("rows", "relevant", "n_relevant")}
        weight = None if self.weight is None else self.weight[queries]
        similarities = np.ascontiguousarray(self.similarities[:, queries])
        return replace(self, similarities=similarities, weight=weight, **parts)


def pad_candidates(
    candidates: Candidates, relevant: Sequence[np.ndarray], k: int, metric: str = "map"
) -> PaddedCandidates:
    """Pack `candidates` and the relevant gallery rows of each query; a query without any is an error."""
    if any(len(rows) == 0 for rows in relevant):
        raise Top7Error(
            "a query without a correct gallery image has no average precision: take it out of the labels"
        )
    shape = len(candidates.rows), max(k, *map(len, candidates.rows))
    rows, hits = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=bool)
    similarities = np.zeros((candidates.similarities[0].shape[1], *shape))
    for query, (found, values) in enumerate(zip(candidates.rows, candidates.similarities)):
        rows[query, : len(found)] = found
        similarities[:, query, : len(found)] = values.T
        hits[query, : len(found)] = np.isin(found, relevant[query])
    counts = np.array([len(np.unique(wanted)) for wanted in relevant], dtype=np.int64)
    return PaddedCandidates(similarities, rows, hits, counts, k, metric=metric)


def top_positions(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (Q, k) columns of the k best scores of each row, best first, ties to the lower, and which are there.

    A score of -inf is not there.
    """
    scores, lines = scores.copy(), np.arange(len(scores))
    best, there = np.empty((len(scores), k), dtype=np.int64), np.empty((len(scores), k), dtype=bool)
    for place in range(k):
        best[:, place] = scores.argmax(axis=1)  # argmax takes the first of equals
        there[:, place] = scores[lines, best[:, place]] > -np.inf
        scores[lines, best[:, place]] = -np.inf
    return best, there


def ranked_positions(padded: PaddedCandidates, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns (Q, k) of the k best candidates of every query, best first, and which are there."""
    scores = np.where(padded.rows < 0, -np.inf, fuse(padded.similarities, weights))
    return top_positions(scores, padded.k)


def average_precisions(padded: PaddedCandidates, weights: np.ndarray) -> np.ndarray:
    """Return AP@k of every query, (Q,) float64, convention min(m, k) (Kaggle's), or the padded's other metric."""
    best, valid = ranked_positions(padded, weights)
    hits = np.take_along_axis(padded.relevant, best, axis=1) & valid
    return figures_of_hits(hits, padded.n_relevant, padded.k, padded.metric)


def mean_average_precision(padded: PaddedCandidates, weights: np.ndarray) -> float:
    """Return MAP@k of `weights`, each query counted by its own weight."""
    return float(np.average(average_precisions(padded, weights), weights=padded.weight))
