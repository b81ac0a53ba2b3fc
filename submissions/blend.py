"""Several finished submissions into one: by rank, or by score where their scores were kept beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.leaderboard import Row, file_digest, read_rows
from competition.metrics import WHOLE_LISTS, query_figures
from features.recipes.kept import ranked_among
from submissions.checking import Expected, read_submission
from submissions.submitting import record_expected
from submissions.writing import read_scores, scores_path, write_scores, write_submission
from tuning.evaluating import mean_figures
from tuning.labelled import labelled_queries


@dataclass(frozen=True)
class ScoredLists:
    """One submission: its split, query ids, gallery rows (Q, k) best first, and scores (Q, k) float64 if kept."""

    path: Path
    split: str
    query_ids: tuple[str, ...]
    ranks: np.ndarray
    scores: np.ndarray | None = None


def blend(
    all_ranks: Sequence[np.ndarray],
    weights: Sequence[float],
    k: int,
    *,
    method: str = "rank",
    all_scores: Sequence[np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return blended ranks (Q, k) int64 and their points (Q, k) float64.

    all_ranks: S arrays (Q, k_s) of gallery rows, best first, -1 for missing; weights (S,) >= 0; all_scores beside them
    for method "score": those of each submission are first standardised (mean 0, deviation 1 over all its answers), so
    that submissions of different measures weigh alike. An image's points are the weighted mean over the submissions;
    equal points go to the lower gallery row. ConfigurationError: weights that do not fit.
    """
    shares = _shares(weights, len(all_ranks))
    scores = all_scores or [None] * len(all_ranks)
    if method == "score" and any(part is None for part in scores):
        raise Top7Error("blending by score needs the scores of every submission: blend by rank instead")
    parts = [_points(method, ranks, part) for ranks, part in zip(all_ranks, scores, strict=True)]
    count = len(all_ranks[0])
    if any(len(ranks) != count for ranks in all_ranks):
        raise Top7Error(f"submissions of {[len(ranks) for ranks in all_ranks]} queries cannot be blended")
    result, points = np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf)
    for query in range(count):
        rows = np.unique(np.concatenate([ranks[query][ranks[query] >= 0] for ranks in all_ranks]))
        total = np.zeros(len(rows))
        for ranks, (own, absent), share in zip(all_ranks, parts, shares, strict=True):
            known = ranks[query] >= 0
            if known.any():
                values = np.full(len(rows), absent[query])
                values[np.searchsorted(rows, ranks[query][known])] = own[query][known]
                total += share * values
        order = np.lexsort((rows, -total))[:k]
        result[query, : len(order)], points[query, : len(order)] = rows[order], total[order]
    return result, points


def _points(method: str, ranks: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of each place (Q, k) and of images that are absent from a list (Q,).

    rank: k + 1 - rank, absent images at rank k + 1. reciprocal: 1 / (60 + rank), 0 for absent ones (reciprocal rank
    fusion; Cormack, Clarke, Büttcher, SIGIR 2009). score: the standardised scores; an absent image has at most the
    lowest of the list, and is given that.
    """
    if scores is not None and method == "score":
        points = standardised(scores, ranks)
        return points, np.where(ranks >= 0, points, np.inf).min(axis=1)
    rank = np.arange(1, ranks.shape[1] + 1)
    points = len(rank) + 1.0 - rank if method == "rank" else 1.0 / (60.0 + rank)
    return np.broadcast_to(points, ranks.shape), np.zeros(len(ranks))


def _shares(weights: Sequence[float], count: int) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float64)
    if len(values) != count or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ConfigurationError(
            f"weights {values.tolist()} for {count} submissions: give one number >= 0 each, one of them above 0"
        )
    return values / values.sum()


def standardised(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return scores (Q, k) minus their mean, divided by their standard deviation, over the places with an answer."""
    known = scores[ranks >= 0]
    if not known.size:
        return scores
    return (scores - float(np.mean(known))) / (float(np.std(known)) or 1.0)


def read_lists(path: Path | str, expected: Expected) -> ScoredLists:
    """Read a submission without fault, rows in the order of its split's queries, and its scores if they were kept."""
    check = read_submission(path, expected)
    split = str(check.split)
    query_ids = tuple(expected.splits[split])
    ranks = check.ranks(query_ids, expected.gallery_ids)
    return ScoredLists(Path(path), split, query_ids, ranks, read_scores(path, query_ids, ranks.shape[1]))


def blend_files(
    paths: Sequence[Path | str], weights: Sequence[float] | None, expected: Expected, method: str = "rank"
) -> ScoredLists:
    """Return the blend of submission files, all of one split; the first names it. weights: None for equal ones."""
    if len(paths) < 2:
        raise ConfigurationError(f"{len(paths)} submission to blend: give at least two")
    first, *others = lists = [read_lists(path, expected) for path in paths]
    for other in others:
        if other.split != first.split:
            both = f"{other.path} answers {other.split}, {first.path} answers {first.split}"
            raise Top7Error(f"{both}: blend submissions of one split")
    lacking = next((part.path for part in lists if part.scores is None), None)
    if method == "score" and lacking is not None:
        raise Top7Error(f"{lacking}: no {scores_path(lacking).name} beside it: blend by rank instead")
    scores, k = [part.scores for part in lists], first.ranks.shape[1]
    shares = weights if weights is not None else [1.0] * len(lists)
    ranks, points = blend([part.ranks for part in lists], shares, k, method=method, all_scores=scores)
    return replace(first, ranks=ranks, scores=points)


def write_blend(
    configuration: Configuration,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    method: str,
    out: Path | None,
    expected: Expected,
) -> dict:
    """Write the blend of submission files of one split and note it on the leaderboard; returns what it is.

    expected: the figures of the same blend of the parts' validation submissions, {} with `unknown`, the reason, where
    one of those is not there.
    """
    competition = configuration.competition
    lists = blend_files(files, weights, expected, method)
    path = out or competition.work / "submissions" / f"blend-{lists.split}.csv"
    write_submission(
        path, lists.query_ids, lists.ranks, expected.gallery_ids, competition.top_k, competition.submission
    )
    if lists.scores is not None:
        write_scores(path, lists.query_ids, lists.scores)
    values = {
        "file": str(path),
        "sha256": file_digest(path),
        "split": lists.split,
        "queries": len(lists.query_ids),
        "of": [str(file) for file in files],
        "recipe": f"blend of {', '.join(Path(file).stem for file in files)}",
        "weights": list(weights or [1.0] * len(files)),
        "expected": {},
    }
    data = ranked_among(configuration)
    try:
        if competition.metric == WHOLE_LISTS:
            raise Top7Error("mAP is of whole lists, which submissions do not hold")
        parts = list(files) if lists.split == "validation" else _on_validation(configuration, files, data)
        labelled = labelled_queries(configuration, expected.gallery_ids)
        ranks = blend_files(parts, weights, expected, method).ranks
        precisions = query_figures(ranks, labelled.relevant, competition.top_k, competition.metric)
        values["expected"] = mean_figures(precisions, labelled)
    except Top7Error as error:
        values["unknown"] = str(error)
    record_expected(competition.work, values, data or {})
    return values


def _on_validation(
    configuration: Configuration, files: Sequence[Path], data: Mapping[str, object] | None
) -> list[Path]:
    """For each test submission the validation submission of the same recipe on the same data, by the leaderboard."""
    work = configuration.competition.work
    rows = read_rows(work, data)
    found = []
    for file in files:
        digest = file_digest(file)
        own = next((row for row in rows if row.sha256 == digest and "recipe" in row.details), None)
        if own is None:
            raise Top7Error(f"the leaderboard knows no recipe for {file}")
        twins = (
            folder / row.file
            for row in rows
            if _same_recipe(row, own) and not row.unlike
            for folder in (Path(file).parent, work / "submissions")
            if (folder / row.file).is_file() and file_digest(folder / row.file) == row.sha256
        )
        path = next(twins, None)
        if path is None:
            recipe = own.details["recipe"]
            raise Top7Error(
                f"no validation submission of {recipe}, the recipe of {file}: "
                f"./run.sh submit --split validation --recipe {recipe} writes it"
            )
        found.append(path)
    return found


def _same_recipe(row: Row, own: Row) -> bool:
    told = [(each.details.get("recipe"), each.details.get("weights")) for each in (row, own)]
    return row.split == "validation" and told[0] == told[1]
