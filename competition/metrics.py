"""MAP@k by the two conventions that participants use; they differ hugely, so every figure names its own.

With rel(i) = 1 if the image at rank i is correct, P(i) the share of correct images among the first i ranks
and m the number of correct images of the query, AP@k = sum over i <= k of P(i) rel(i), divided by

- "min(m,k)" (default; Kaggle's convention): the most hits the list could have;
- "hits" (the 2018 runner-up's script): the number of hits it has; 0 where it has none.

Recall@k is the share of a query's m correct images among its first k, precision@k the share of hits in k
places. The metric "trapezoid" is none of these: the mAP of whole lists as Oxford, Paris, Holidays and the revisited sets
define it. Junk images are taken out of the list first. With j positives found before a positive at zero-based rank r, it
adds (j/r + (j+1)/(r+1)) / 2, the first term 1 where r = 0; the sum is divided by m, the number of positives. A positive
that is not in the list adds nothing and counts in m.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from competition.errors import Top7Error

CONVENTIONS = ("min(m,k)", "hits")
# [competition] metric -> its name before @k
METRICS = {"map": "MAP", "recall": "recall", "precision": "precision"}
WHOLE_LISTS = "trapezoid"  # the metric that needs the place of every image


def ranked_by(metric: str) -> str:
    """Return the name of the figure that a leaderboard ranks by: of "map" the first convention, else the metric."""
    return CONVENTIONS[0] if metric == "map" else metric


def figure_label(metric: str, k: int | str) -> str:
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

    A row named twice counts once.
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


def query_figures(
    ranks: np.ndarray,
    relevant: np.ndarray | Sequence[Iterable[int]],
    k: int,
    metric: str = "map",
    junk: Sequence[Iterable[int]] = (),
    convention: str = "min(m,k)",
) -> np.ndarray:
    """AP@k ("map", by one of CONVENTIONS), recall@k, precision@k or whole-list AP of each query: (n_queries,) float64.

    ranks: (n_queries, any) gallery rows, best first; -1 is a missing answer: it holds its rank and is no hit.
    Columns from k on are ignored; fewer than k columns are a list that ends early. A row ranked twice is a
    hit once. relevant: the result of `pad_relevant`, or per query its correct gallery rows (each query at
    least one); junk: rows a query, taken out of the whole lists that "trapezoid" needs.
    """
    if metric == WHOLE_LISTS:
        positives = [[row for row in rows if row >= 0] for rows in relevant]
        taken_out = [list(rows) for rows in junk] or [[]] * len(positives)
        return trapezoid_precisions(list(ranks), positives, taken_out)
    assert metric in METRICS and convention in CONVENTIONS and k >= 1  # a configuration has nothing else
    padded = relevant if isinstance(relevant, np.ndarray) else pad_relevant(relevant)
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or len(ranks) != len(padded):
        raise Top7Error(
            f"ranks of shape {ranks.shape} for {len(padded)} labelled queries: expected one row a query"
        )
    ranks = ranks[:, :k]
    # (query, rank, correct image)
    found = (ranks[:, :, None] == padded[:, None, :]) & (ranks >= 0)[:, :, None]
    hits = (found & (np.cumsum(found, axis=1) == 1)).any(axis=2)
    return figures_of_hits(hits, (padded >= 0).sum(axis=1), k, metric, convention)


def figures_of_hits(
    hits: np.ndarray, n_relevant: np.ndarray, k: int, metric: str = "map", convention: str = "min(m,k)"
) -> np.ndarray:
    """The metric from hits (..., at most k) bool, best first, of queries with n_relevant (...) correct images."""
    if metric != "map":
        return hits.sum(axis=-1) / (n_relevant if metric == "recall" else float(k))
    precision = np.cumsum(hits, axis=-1) / np.arange(1, hits.shape[-1] + 1)
    most = np.minimum(n_relevant, k) if convention == "min(m,k)" else np.maximum(hits.sum(axis=-1), 1)
    return (precision * hits).sum(axis=-1) / most


def trapezoid_precision(ranks: np.ndarray, positives: Collection[int], junk: Collection[int] = ()) -> float:
    """Return the average precision of one query; Top7Error where it has no positive, as then none is defined.

    ranks: (n,) gallery rows, best first, each once; -1 ends nothing and holds a rank.
    """
    if not len(positives):
        raise Top7Error("a query without positives has no average precision: leave it out of the mean")
    ranks = np.asarray(ranks, dtype=np.int64)
    kept = ranks[~np.isin(ranks, list(junk))]
    found = np.flatnonzero(np.isin(kept, list(positives)))
    before = np.arange(len(found))
    first = np.where(found == 0, 1.0, before / np.maximum(found, 1))
    return float(((first + (before + 1) / (found + 1)) / 2).sum() / len(set(positives)))


def trapezoid_precisions(
    ranks: Sequence[np.ndarray], positives: Sequence[Collection[int]], junk: Sequence[Collection[int]]
) -> np.ndarray:
    """Return the average precision of each query, (Q,) float64; NaN where a query has no positive (`numpy.nanmean`)."""
    return np.array(
        [
            trapezoid_precision(*query) if len(query[1]) else np.nan
            for query in zip(ranks, positives, junk, strict=True)
        ]
    )
