"""Several finished submissions into one: by rank, or by score where their scores were kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import ConfigurationError, Top7Error, nearest
from competition.leaderboard import Row, file_digest, read_rows
from competition.metrics import WHOLE_LISTS, query_figures
from features.recipes.kept import ranked_among
from submissions.outcome import Splits
from submissions.scoring import read_submission
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


Points = tuple[np.ndarray, float]


def rank_points(known: np.ndarray, scores: np.ndarray) -> Points:
    """k + 1 - rank for each place, 0 for absent: the mean rank, absent images at rank k + 1."""
    return np.arange(len(known), 0, -1, dtype=np.float64), 0.0


def reciprocal_points(known: np.ndarray, scores: np.ndarray) -> Points:
    """1 / (60 + rank), 0 for absent (reciprocal rank fusion; Cormack, Clarke, Büttcher, SIGIR 2009)."""
    return 1.0 / (60.0 + np.arange(1, len(known) + 1)), 0.0


def score_points(known: np.ndarray, scores: np.ndarray) -> Points:
    """The scores themselves; an absent image has at most the lowest score of the list, and is given that."""
    return scores, float(np.min(scores[known]))


# each takes which places hold an answer (k,) bool and their scores (k,), and returns points (k,) and those of absent ones
METHODS: dict[str, Callable[[np.ndarray, np.ndarray], Points]] = {
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

    all_ranks: S arrays (Q, k_s) of gallery rows, best first, -1 for missing; weights (S,) >= 0; all_scores beside them
    for method "score": those of each submission are first standardised (mean 0, deviation 1 over all its answers), so
    that submissions of different measures weigh alike. An image's points are the weighted mean over the submissions;
    equal points go to the lower gallery row. ConfigurationError: unknown method, weights that do not fit.
    """
    shares = _shares(weights, len(all_ranks))
    if method not in METHODS:
        raise ConfigurationError(f"unknown way to blend {method!r}: {nearest(method, METHODS)}")
    scores = [np.zeros(ranks.shape) for ranks in all_ranks]
    if method == "score":
        kept = [part for part in all_scores or () if part is not None]
        if len(kept) < len(all_ranks):
            raise Top7Error("blending by score needs the scores of every submission: blend by rank instead")
        scores = [standardised(part, ranks) for part, ranks in zip(kept, all_ranks, strict=True)]
    count = len(all_ranks[0])
    if any(len(ranks) != count for ranks in all_ranks):
        raise Top7Error(f"submissions of {[len(ranks) for ranks in all_ranks]} queries cannot be blended")
    result, points = np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf)
    for query in range(count):
        rows = np.unique(np.concatenate([ranks[query][ranks[query] >= 0] for ranks in all_ranks]))
        total = np.zeros(len(rows))
        for ranks, part, share in zip(all_ranks, scores, shares, strict=True):
            known = ranks[query] >= 0
            if not known.any():
                continue
            own, absent = METHODS[method](known, part[query])
            values = np.full(len(rows), absent)
            values[np.searchsorted(rows, ranks[query][known])] = own[known]
            total += share * values
        order = np.lexsort((rows, -total))[:k]
        result[query, : len(order)], points[query, : len(order)] = rows[order], total[order]
    return result, points


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


def read_lists(
    path: Path | str, *, splits: Mapping[str, Sequence[str]], gallery_ids: Sequence[str], **form
) -> ScoredLists:
    """Read a submission without fault, rows in the order of its split's queries, and its scores if they were kept."""
    check = read_submission(path, splits=splits, gallery_ids=gallery_ids, **form)
    row_of = {gallery_id: row for row, gallery_id in enumerate(gallery_ids)}
    split = str(check.split)
    query_ids = tuple(splits[split])
    ranks = np.array([[row_of[one] for one in check.answers[query]] for query in query_ids], dtype=np.int64)
    return ScoredLists(Path(path), split, query_ids, ranks, read_scores(path, query_ids, ranks.shape[1]))


def blend_files(
    paths: Sequence[Path | str],
    weights: Sequence[float] | None = None,
    *,
    method: str = "rank",
    **form,
) -> ScoredLists:
    """Return the blend of submission files, all of one split; the first names it. form: see `read_submission`."""
    if len(paths) < 2:
        raise ConfigurationError(f"{len(paths)} submission to blend: give at least two")
    lists = [read_lists(path, **form) for path in paths]
    for other in lists[1:]:
        if other.split != lists[0].split:
            raise Top7Error(
                f"{other.path} answers {other.split}, {lists[0].path} answers {lists[0].split}: blend "
                "submissions of one split"
            )
    lacking = next((part.path for part in lists if part.scores is None), None)
    if method == "score" and lacking is not None:
        raise Top7Error(f"{lacking}: no {scores_path(lacking).name} beside it: blend by rank instead")
    ranks, points = blend(
        [part.ranks for part in lists],
        weights if weights is not None else [1.0] * len(lists),
        lists[0].ranks.shape[1],
        method=method,
        all_scores=[part.scores for part in lists],
    )
    return ScoredLists(lists[0].path, lists[0].split, lists[0].query_ids, ranks, points)


def write_blend(
    configuration: Configuration,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    method: str,
    out: Path | None,
    found: Splits,
) -> dict:
    """Write the blend of submission files of one split and note it on the leaderboard; returns what it is.

    expected: the figures of the same blend of the parts' validation submissions, {} with `unknown`, the reason, where
    one of those is not there.
    """
    competition, form = configuration.competition, found.form(configuration)
    lists = blend_files(files, weights, method=method, **form)
    path = out or Path(competition.work) / "submissions" / f"blend-{lists.split}.csv"
    write_submission(
        path, lists.query_ids, lists.ranks, found.gallery, competition.top_k, competition.submission
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
        labelled = labelled_queries(configuration, found.gallery)
        ranks = blend_files(parts, weights, method=method, **form).ranks
        precisions = query_figures(ranks, labelled.relevant, competition.top_k, competition.metric)
        values["expected"] = mean_figures(precisions, labelled)
    except (ConfigurationError, Top7Error) as error:
        values["unknown"] = str(error)
    record_expected(Path(competition.work), values, data or {})
    return values


def _on_validation(
    configuration: Configuration, files: Sequence[Path], data: Mapping[str, object] | None
) -> list[Path]:
    """For each test submission the validation submission of the same recipe on the same data, by the leaderboard."""
    work = Path(configuration.competition.work)
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
