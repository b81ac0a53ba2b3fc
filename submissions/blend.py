"""Several finished submissions into one: by rank, or by score where their scores were kept beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error
from competition.leaderboard import Row, file_digest, read_rows
from competition.metrics import WHOLE_LISTS, query_figures
from features.ranked_lists import RankedLists
from features.recipes.kept import ranked_among
from submissions.checking import Expected, expected_of, read_submission
from submissions.submitting import read_scores, scores_path, write_and_note
from tuning.evaluating import mean_figures
from tuning.labelled import labelled_queries


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
    shares = np.asarray(weights, dtype=np.float64)
    fit = len(shares) == len(all_ranks) and np.isfinite(shares).all() and (shares >= 0).all()
    if not fit or not shares.any():
        raise ConfigurationError(
            f"weights {shares.tolist()} for {len(all_ranks)} submissions: give one number >= 0 each, one of them above 0"
        )
    parts = [
        _points(method, *part) for part in zip(all_ranks, all_scores or [None] * len(shares), strict=True)
    ]
    count = len(all_ranks[0])
    result, points = np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf)
    for query in range(count):
        rows = np.unique(np.concatenate([ranks[query][ranks[query] >= 0] for ranks in all_ranks]))
        total = np.zeros(len(rows))
        for ranks, (own, absent), share in zip(all_ranks, parts, shares / shares.sum(), strict=True):
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
    there = ranks >= 0
    if scores is not None and method == "score" and there.any():
        points = (scores - float(np.mean(scores[there]))) / (float(np.std(scores[there])) or 1.0)
        return points, np.where(there, points, np.inf).min(axis=1)
    rank = np.arange(1, ranks.shape[1] + 1)
    points = len(rank) + 1.0 - rank if method == "rank" else 1.0 / (60.0 + rank)
    return np.broadcast_to(points, ranks.shape), np.zeros(len(ranks))


def blend_files(
    paths: Sequence[Path | str], weights: Sequence[float] | None, expected: Expected, method: str = "rank"
) -> tuple[str, RankedLists]:
    """Return the blend of submission files, all of one split, and that split. weights: None for equal ones."""
    if len(paths) < 2:
        raise ConfigurationError(f"{len(paths)} submission to blend: give at least two")
    checks = [read_submission(path, expected) for path in paths]
    split = str(checks[0].split)
    for path, check in zip(paths, checks):
        if check.split != split:
            both = f"{path} answers {check.split}, {paths[0]} answers {split}"
            raise Top7Error(f"{both}: blend submissions of one split")
    query_ids, gallery_ids = tuple(expected.splits[split]), tuple(expected.gallery_ids)
    scores = [read_scores(path, query_ids, expected.top_k) for path in paths]
    for path, kept in zip(paths, scores):
        if method == "score" and kept is None:
            raise Top7Error(f"{path}: no {scores_path(path).name} beside it: blend by rank instead")
    ranks = [check.ranks(query_ids, gallery_ids) for check in checks]
    shares = weights or [1.0] * len(paths)
    blended, points = blend(ranks, shares, expected.top_k, method=method, all_scores=scores)
    return split, RankedLists(query_ids, gallery_ids, blended, points, ())


def write_blend(
    configuration: Configuration,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    method: str,
    out: Path | None,
) -> dict:
    """Write the blend of submission files of one split and note it on the leaderboard; returns what it is.

    expected: the figures of the same blend of the parts' validation submissions, {} with `unknown`, the reason, where
    one of those is not there.
    """
    competition, expected = configuration.competition, expected_of(configuration)
    split, lists = blend_files(files, weights, expected, method)
    about: dict[str, Any] = {
        "of": [str(file) for file in files],
        "recipe": f"blend of {', '.join(Path(file).stem for file in files)}",
        "weights": list(weights or [1.0] * len(files)),
        "expected": {},
    }
    data = ranked_among(configuration)
    try:
        if competition.metric == WHOLE_LISTS:
            raise Top7Error("mAP is of whole lists, which submissions do not hold")
        if split != "validation":
            rows = read_rows(competition.work, data)
            files = [_on_validation(file, rows, competition.work) for file in files]
        labelled = labelled_queries(configuration, expected.gallery_ids)
        ranks = blend_files(files, weights, expected, method)[1].ranks
        precisions = query_figures(ranks, labelled.relevant, competition.top_k, competition.metric)
        about["expected"] = mean_figures(precisions, labelled)
    except Top7Error as error:
        about["unknown"] = str(error)
    return write_and_note(configuration, lists, split, out, "blend", about, data or {})


def _on_validation(file: Path, rows: Sequence[Row], work: Path) -> Path:
    """The validation submission of the same recipe, on the same data, as a test submission, by the leaderboard."""
    digest = file_digest(file)
    own = next((row for row in rows if row.sha256 == digest and "recipe" in row.details), None)
    if own is None:
        raise Top7Error(f"the leaderboard knows no recipe for {file}")
    recipe = own.details["recipe"]
    for row in rows:
        same = all(row.details.get(key) == own.details.get(key) for key in ("recipe", "weights"))
        if same and row.split == "validation" and not row.unlike:
            for path in (Path(file).parent / row.file, work / "submissions" / row.file):
                if path.is_file() and file_digest(path) == row.sha256:
                    return path
    raise Top7Error(
        f"no validation submission of {recipe}, the recipe of {file}: "
        f"./run.sh submit --split validation --recipe {recipe} writes it"
    )
