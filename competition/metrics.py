"""MAP@k by the two conventions that participants use; they differ hugely, so every figure names its own.

With rel(i) = 1 if the image at rank i is correct, P(i) the share of correct images among the first i ranks
and m the number of correct images of the query, AP@k = sum over i <= k of P(i) rel(i), divided by

- "min(m,k)" (default; Kaggle's convention): the most hits the list could have;
- "hits" (the 2018 runner-up's script): the number of hits it has; 0 where it has none.

Recall@k is the share of a query's m correct images among its first k, precision@k the share of hits in k places.
The metric "trapezoid" is none of these: the mAP of whole lists (`competition.average_precision`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from competition.average_precision import trapezoid_precisions
from competition.errors import ConfigurationError, Top7Error, nearest

CONVENTIONS = ("min(m,k)", "hits")
METRICS = {
    "map": "MAP",
    "recall": "recall",
    "precision": "precision",
}  # [competition] metric -> its name before @k
WHOLE_LISTS = "trapezoid"  # the metric that needs the place of every image


def figure_label(metric: str, k: int) -> str:
    """Return what a figure is called in short: "MAP@7", "recall@7", "precision@7", "mAP" of whole lists."""
    return "mAP" if metric == WHOLE_LISTS else f"{METRICS[metric]}@{k}"


def figure_name(metric: str, k: int) -> str:
    """Return what a figure is called, with its convention: "MAP@7 (hits over min(m, 7))", "recall@7", "precision@7"."""
    more = {"map": f" (hits over min(m, {k}))", WHOLE_LISTS: " (whole lists, trapezoid)"}
    return figure_label(metric, k) + more.get(metric, "")


def list_depth(metric: str, k: int, n_gallery: int) -> int:
    """Return how many places of a list the metric looks at."""
    return n_gallery if metric == WHOLE_LISTS else k


def pad_relevant(relevant: Sequence[Iterable[int]]) -> np.ndarray:
    """The correct gallery rows of each query as one array: (n_queries, largest m) int64, filled up with -1.

    Made once, it spares `average_precisions` this work in each of thousands of calls. A row named twice
    counts once.
    Top7Error: a query without correct images; its average precision is not defined.
    """
    distinct = [np.unique(np.array(list(rows), dtype=np.int64)) for rows in relevant]
    padded = np.full((len(distinct), max(map(len, distinct), default=0)), -1, dtype=np.int64)
    for query, rows in enumerate(distinct):
        if not len(rows):
            raise Top7Error(
                f"query row {query} has no correct gallery image, so its average precision is not defined: "
                "label it or leave it out"
            )
        padded[query, : len(rows)] = rows
    return padded


def average_precisions(
    ranks: np.ndarray,
    relevant: np.ndarray | Sequence[Iterable[int]],
    k: int = 7,
    convention: str = "min(m,k)",
) -> np.ndarray:
    """AP@k of each query: (n_queries,) float64.

    ranks: (n_queries, any) gallery rows, best first; -1 is a missing answer: it holds its rank and is no hit.
    Columns from k on are ignored; fewer than k columns are a list that ends early. A row ranked twice is a
    hit once.
    relevant: the result of `pad_relevant`, or per query its correct gallery rows (each query at least one).
    """
    if convention not in CONVENTIONS:
        raise ConfigurationError(
            f"unknown convention {convention!r} of MAP@k; {nearest(convention, CONVENTIONS)}"
        )
    hits, relevant = _hits(ranks, relevant, k)
    if convention == "hits":
        places = np.arange(1, hits.shape[1] + 1)
        total = (np.cumsum(hits, axis=1) / places * hits).sum(axis=1)
        return total / np.maximum(hits.sum(axis=1), 1)
    return figures_of_hits(hits, (relevant >= 0).sum(axis=1), k, "map")


def query_figures(
    ranks: np.ndarray,
    relevant: np.ndarray | Sequence[Iterable[int]],
    k: int,
    metric: str = "map",
    junk: Sequence[Iterable[int]] = (),
) -> np.ndarray:
    """AP@k ("map"; convention min(m, k)), recall@k, precision@k or whole-list AP of each query: (n_queries,) float64.

    ranks, relevant: as for `average_precisions`; of "trapezoid" whole lists, out of which junk, rows a query, is taken.
    """
    if metric == WHOLE_LISTS:
        positives = [[row for row in rows if row >= 0] for rows in relevant]
        taken_out = [list(rows) for rows in junk] or [[]] * len(positives)
        return trapezoid_precisions(list(ranks), positives, taken_out)
    if metric not in METRICS:
        raise ConfigurationError(f"unknown metric {metric!r}; {nearest(metric, METRICS)}")
    hits, relevant = _hits(ranks, relevant, k, metric)
    return figures_of_hits(hits, (relevant >= 0).sum(axis=1), k, metric)


def figures_of_hits(hits: np.ndarray, n_relevant: np.ndarray, k: int, metric: str = "map") -> np.ndarray:
    """The metric from hits (..., at most k) bool, best first, of queries with n_relevant (...) correct images."""
    if metric == "map":
        precision = np.cumsum(hits, axis=-1) / np.arange(1, hits.shape[-1] + 1)
        return (precision * hits).sum(axis=-1) / np.minimum(n_relevant, k)
    return hits.sum(axis=-1) / (n_relevant if metric == "recall" else float(k))


def _hits(
    ranks: np.ndarray, relevant: np.ndarray | Sequence[Iterable[int]], k: int, metric: str = "map"
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the first k places are hits, (n_queries, at most k) bool, and `relevant` padded."""
    if k < 1:
        raise ConfigurationError(f"{METRICS[metric]}@{k}: expected k of at least 1")
    if not (isinstance(relevant, np.ndarray) and relevant.ndim == 2):
        relevant = pad_relevant(relevant)
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or len(ranks) != len(relevant):
        raise Top7Error(
            f"ranks of shape {ranks.shape} for {len(relevant)} labelled queries: expected one row a query"
        )
    ranks = ranks[:, :k]
    found = (ranks[:, :, None] == relevant[:, None, :]) & (ranks >= 0)[
        :, :, None
    ]  # (query, rank, correct image)
    return (found & (np.cumsum(found, axis=1) == 1)).any(axis=2), relevant


def average_precision(
    ranks: Sequence[int] | np.ndarray, relevant: Iterable[int], k: int = 7, convention: str = "min(m,k)"
) -> float:
    """AP@k of one query; see `average_precisions`."""
    return float(average_precisions(np.asarray(ranks, dtype=np.int64)[None, :], [relevant], k, convention)[0])


def mean_average_precision(
    ranks: np.ndarray,
    relevant: np.ndarray | Sequence[Iterable[int]],
    k: int = 7,
    convention: str = "min(m,k)",
) -> float:
    """MAP@k, the mean of `average_precisions` over all queries; Top7Error if one has no correct image."""
    if not len(ranks):
        raise Top7Error("MAP@k of no query at all: expected at least one labelled query")
    return float(np.mean(average_precisions(ranks, relevant, k, convention)))
