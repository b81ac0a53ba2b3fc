"""Write a submission, checked before a byte is written: UTF-8, \\n, `id,id1,…,id7` without a header, or Kaggle's form.

Kaggle's has the header `id,images` and the gallery ids of a query separated by spaces.
"""

from __future__ import annotations

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

    ranks: (n_queries, at least top_k) integer gallery rows, best first; form: "plain" or "kaggle". Returns `path`,
    written completely or not at all. Top7Error: no query, a missing (-1) or repeated gallery row.
    """
    path, rows_of = Path(path), ranks[:, :top_k].tolist()
    if path.is_dir():
        raise Top7Error(f"{path}: is a folder: expected the name of the CSV file to write")
    if not len(query_ids):
        raise Top7Error(f"{path}: no query to answer: expected at least one")
    between = {"plain": ",", "kaggle": " "}[form]
    lines = [KAGGLE_HEADER] if form == "kaggle" else []
    for query, rows in zip(query_ids, rows_of, strict=True):
        if min(rows) < 0:
            found = f"query {query!r} has {sum(row >= 0 for row in rows)} answers: expected {top_k}"
            raise Top7Error(f"{path}: {found}; the gallery needs at least {top_k} readable images")
        if len(set(rows)) < top_k:
            twice = f"query {query!r} is answered by one gallery image twice"
            raise Top7Error(f"{path}: {twice}: expected {top_k} distinct images")
        lines.append(f"{query},{between.join(gallery_ids[row] for row in rows)}")
    return write_text(path, "".join(f"{line}\n" for line in lines))


def write_lists(path: Path | str, lists: RankedLists, competition: Competition) -> None:
    """Write ranked lists as a submission of the competition, and say which queries could not be read."""
    for query in lists.unreadable:
        log.warning(f"top7: query {query} could not be read: its line holds the first gallery images")
    form = competition.submission
    write_submission(path, lists.query_ids, lists.ranks, lists.gallery_ids, competition.top_k, form)


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
