"""Write a submission, checked before a byte is written: UTF-8, \\n, `id,id1,…,id7` without a header, or Kaggle's form.

Kaggle's has the header `id,images` and the gallery ids of a query separated by spaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from competition.atomic import write_text
from competition.configuration import Competition
from competition.errors import Top7Error
from competition.messages import log

if TYPE_CHECKING:
    from features.ranked_lists import RankedLists

KAGGLE_HEADER = "id,images"


def write_submission(
    path: Path | str,
    query_ids: Sequence[str],
    ranks: np.ndarray,
    gallery_ids: Sequence[str],
    top_k: int = 7,
    form: str = "plain",
) -> Path:
    """Write the first `top_k` columns of `ranks` as gallery ids, a line a query in the order of `query_ids`.

    ranks: (n_queries, at least top_k) integer gallery rows, best first; form: "plain" or "kaggle". Returns `path`, written
    completely or not at all. Top7Error: a query twice, a missing (-1), unknown or repeated gallery row, another shape.
    """
    path, ranks = Path(path), np.asarray(ranks)
    if fault := _fault(path, query_ids, ranks, len(gallery_ids), top_k):
        raise Top7Error(f"{path}: {fault}")
    between = {"plain": ",", "kaggle": " "}[form]
    lines = [KAGGLE_HEADER] if form == "kaggle" else []
    lines += [
        f"{query},{between.join(gallery_ids[row] for row in rows)}"
        for query, rows in zip(query_ids, ranks[:, :top_k].tolist(), strict=True)
    ]
    return write_text(path, "".join(f"{line}\n" for line in lines))


def write_lists(path: Path | str, lists: RankedLists, competition: Competition) -> None:
    """Write ranked lists as a submission of the competition, and say which queries could not be read."""
    for query in lists.unreadable:
        log.warning(f"top7: query {query} could not be read: its line holds the first gallery images")
    form = competition.submission
    write_submission(path, lists.query_ids, lists.ranks, lists.gallery_ids, competition.top_k, form)


def _fault(path: Path, query_ids: Sequence[str], ranks: np.ndarray, n_gallery: int, top_k: int) -> str | None:
    if path.is_dir():
        return "is a folder: expected the name of the CSV file to write"
    if not len(query_ids):
        return "no query to answer: expected at least one"
    for query, count in Counter(query_ids).items():
        if count > 1:
            return f"query {query!r} appears twice: expected each query once"
    rows_each = ranks.shape[1] if ranks.ndim == 2 else 0
    if len(ranks) != len(query_ids) or rows_each < top_k or ranks.dtype.kind not in "iu":
        expected = f"expected integers, {len(query_ids)} queries by at least {top_k} gallery rows"
        return f"ranks of shape {ranks.shape} and type {ranks.dtype}: {expected}"
    for query, rows in zip(query_ids, ranks[:, :top_k].tolist(), strict=True):
        if min(rows) < 0:
            found = f"query {query!r} has {sum(row >= 0 for row in rows)} answers: expected {top_k}"
            return f"{found}; the gallery needs at least {top_k} readable images"
        if max(rows) >= n_gallery:
            found = (
                f"query {query!r} is answered by gallery row {max(rows)}: expected a row below {n_gallery}"
            )
            return f"{found}; the ranks belong to another gallery"
        if len(set(rows)) < top_k:
            return f"query {query!r} is answered by one gallery image twice: expected {top_k} distinct images"
    return None


def scores_path(path: Path | str) -> Path:
    """Return where the scores of the submission `path` are kept."""
    return Path(path).with_name(Path(path).name + ".scores.csv")


def write_scores(path: Path | str, query_ids: Sequence[str], scores: np.ndarray) -> Path:
    """Write the scores (Q, k) of the submission `path` beside it, every bit kept (repr); return the file."""
    lines = (
        ",".join([query, *map(repr, map(float, row))]) for query, row in zip(query_ids, scores, strict=True)
    )
    return write_text(scores_path(path), "".join(f"{line}\n" for line in lines))


def read_scores(path: Path | str, query_ids: Sequence[str], k: int) -> np.ndarray | None:
    """Return the scores (Q, k) kept beside the submission `path`, or None; Top7Error if they are of other queries."""
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
        found = f"scores of shape {scores.shape} for {len(query_ids)} queries of {k} answers"
        raise Top7Error(f"{beside}: {found}: remove the file and blend by rank")
    return scores
