"""Several finished submissions into one: by rank, or by score where their scores were kept.

Scores of a submission stand beside it as `<file>.scores.csv`, `query,score1,…` in the same order of queries
and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.atomic import write_text
from competition.errors import ConfigurationError, Top7Error, nearest
from submissions.scoring import read_submission


@dataclass(frozen=True)
class Lists:
    """One submission: its split, query ids, gallery rows (Q, k) best first, and scores (Q, k) float64 if
    kept.
    """

    path: Path
    split: str
    query_ids: tuple[str, ...]
    ranks: np.ndarray
    scores: np.ndarray | None = None


def rank_points(known: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, float]:
    """k + 1 - rank for each place, 0 for absent: the mean rank, absent images standing at rank k + 1."""
    return np.arange(len(known), 0, -1, dtype=np.float64), 0.0


def reciprocal_points(known: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, float]:
    """1 / (60 + rank), 0 for absent (reciprocal rank fusion; Cormack, Clarke, Büttcher, SIGIR 2009)."""
    return 1.0 / (60.0 + np.arange(1, len(known) + 1)), 0.0


def score_points(known: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, float]:
    """The scores themselves; an absent image has at most the lowest score of the list, and is given that."""
    return scores, float(np.min(scores[known]))


# each takes which places hold an answer (k,) bool and their scores (k,), and returns points (k,) and those of absent ones
METHODS: dict[str, Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, float]]] = {
    "rank": rank_points,
    "reciprocal": reciprocal_points,
    "score": score_points,
}


def blend(
    all_ranks: Sequence[np.ndarray],
    weights: Sequence[float],
    k: int,
    *,
    method: str = "rank",
    all_scores: Sequence[np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return blended ranks (Q, k) int64 and their points (Q, k) float64.

    all_ranks: S arrays (Q, k_s) of gallery rows, best first, -1 for missing; weights (S,) >= 0; all_scores
    beside them for method "score": those of each submission are first standardised (mean 0, deviation 1 over
    all its answers), so that submissions of different measures weigh alike. An image's points are the
    weighted mean over the submissions; equal points go to the lower gallery row. ConfigurationError: unknown
    method, weights that do not fit.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if method not in METHODS:
        raise ConfigurationError(f"unknown way to blend {method!r}: {nearest(method, METHODS)}")
    if (
        len(weights) != len(all_ranks)
        or not np.isfinite(weights).all()
        or (weights < 0).any()
        or not weights.any()
    ):
        raise ConfigurationError(
            f"weights {weights.tolist()} for {len(all_ranks)} submissions: give one number >= 0 "
            "each, one of them above 0"
        )
    scores = [None] * len(all_ranks) if all_scores is None else list(all_scores)
    if method == "score":
        if any(part is None for part in scores):
            raise Top7Error("blending by score needs the scores of every submission: blend by rank instead")
        scores = [standardised(part, ranks) for part, ranks in zip(scores, all_ranks, strict=True)]
    count = len(all_ranks[0])
    if any(len(ranks) != count for ranks in all_ranks):
        raise Top7Error(f"submissions of {[len(ranks) for ranks in all_ranks]} queries cannot be blended")
    result, points = np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf)
    for query in range(count):
        rows = np.unique(np.concatenate([ranks[query][ranks[query] >= 0] for ranks in all_ranks]))
        total = np.zeros(len(rows))
        for ranks, part, weight in zip(all_ranks, scores, weights / weights.sum(), strict=True):
            known = ranks[query] >= 0
            if not known.any():
                continue
            own, absent = METHODS[method](known, None if part is None else part[query])
            values = np.full(len(rows), absent)
            values[np.searchsorted(rows, ranks[query][known])] = own[known]
            total += weight * values
        order = np.lexsort((rows, -total))[:k]
        result[query, : len(order)], points[query, : len(order)] = rows[order], total[order]
    return result, points


def standardised(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return scores (Q, k) minus their mean, divided by their standard deviation, over the places with an
    answer.
    """
    known = scores[ranks >= 0]
    deviation = float(np.std(known)) if known.size else 0.0
    return (scores - (float(np.mean(known)) if known.size else 0.0)) / (deviation if deviation > 0 else 1.0)


def scores_path(path: Path | str) -> Path:
    """Return where the scores of the submission `path` stand."""
    return Path(path).with_name(Path(path).name + ".scores.csv")


def write_scores(path: Path | str, query_ids: Sequence[str], scores: np.ndarray) -> Path:
    """Write the scores (Q, k) of the submission `path` beside it, every bit kept (repr); return the file."""
    lines = (
        ",".join([query, *map(repr, map(float, row))]) for query, row in zip(query_ids, scores, strict=True)
    )
    return write_text(scores_path(path), "".join(f"{line}\n" for line in lines))


def read_scores(path: Path | str, query_ids: Sequence[str], k: int) -> np.ndarray | None:
    """Return the scores (Q, k) kept beside the submission `path`, or None; Top7Error if they are not of its
    queries.
    """
    beside = scores_path(path)
    if not beside.exists():
        return None
    try:
        rows = [line.split(",") for line in beside.read_text(encoding="utf-8").splitlines()]
        values = {row[0]: [float(value) for value in row[1:]] for row in rows}
        scores = np.array([values[query] for query in query_ids], dtype=np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise Top7Error(
            f"{beside}: not the scores of {path} ({error!r}): remove the file and blend by rank"
        ) from None
    if scores.shape != (len(query_ids), k) or len(values) != len(query_ids):
        raise Top7Error(
            f"{beside}: scores of shape {scores.shape} for {len(query_ids)} queries of {k} answers: remove "
            "the file and blend by rank"
        )
    return scores


def read_lists(
    path: Path | str,
    *,
    splits: Mapping[str, Sequence[str]],
    gallery_ids: Sequence[str],
    top_k: int = 7,
    form: str = "plain",
) -> Lists:
    """Read a submission without fault, rows in the order of its split's queries, and its scores if they were
    kept.
    """
    check = read_submission(path, splits=splits, gallery_ids=gallery_ids, top_k=top_k, form=form)
    row_of = {gallery_id: row for row, gallery_id in enumerate(gallery_ids)}
    query_ids = tuple(splits[check.split])
    ranks = np.array(
        [[row_of[answer] for answer in check.answers[query]] for query in query_ids], dtype=np.int64
    )
    return Lists(Path(path), check.split, query_ids, ranks, read_scores(path, query_ids, top_k))


def blend_files(
    paths: Sequence[Path | str],
    weights: Sequence[float] | None = None,
    *,
    splits: Mapping[str, Sequence[str]],
    gallery_ids: Sequence[str],
    top_k: int = 7,
    form: str = "plain",
    method: str = "rank",
) -> Lists:
    """Return the blend of submission files, all of one split; the first names it. See `blend`."""
    if len(paths) < 2:
        raise ConfigurationError(f"{len(paths)} submission to blend: give at least two")
    lists = [
        read_lists(path, splits=splits, gallery_ids=gallery_ids, top_k=top_k, form=form) for path in paths
    ]
    for other in lists[1:]:
        if other.split != lists[0].split:
            raise Top7Error(
                f"{other.path} answers {other.split}, {lists[0].path} answers {lists[0].split}: blend "
                "submissions of one split"
            )
        if method == "score" and other.scores is None or lists[0].scores is None and method == "score":
            lacking = other.path if other.scores is None else lists[0].path
            raise Top7Error(f"{lacking}: no {scores_path(lacking).name} beside it: blend by rank instead")
    ranks, points = blend(
        [part.ranks for part in lists],
        weights if weights is not None else [1.0] * len(lists),
        top_k,
        method=method,
        all_scores=[part.scores for part in lists],
    )
    return Lists(lists[0].path, lists[0].split, lists[0].query_ids, ranks, points)
