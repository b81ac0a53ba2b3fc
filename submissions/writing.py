"""Write a submission, checked before a byte is written: UTF-8, \\n, `id,id1,…,id7` without a header, or Kaggle's form.

Kaggle's has the header `id,images` and the gallery ids of a query separated by spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from competition.atomic import write_text
from competition.errors import Top7Error

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

    ranks: (n_queries, at least top_k) integer gallery rows, best first; form: "plain" or "kaggle". Returns `path`, written completely or
    not at all. Top7Error: a query twice, a missing (-1), unknown or repeated gallery row, another shape.
    """
    ranks = np.asarray(ranks)
    _check(path, query_ids, ranks, len(gallery_ids), top_k)
    between = {"plain": ",", "kaggle": " "}[form]
    lines = [KAGGLE_HEADER] if form == "kaggle" else []
    lines += [
        f"{query},{between.join(gallery_ids[row] for row in rows)}"
        for query, rows in zip(query_ids, ranks[:, :top_k].tolist(), strict=True)
    ]
    return write_text(Path(path), "".join(f"{line}\n" for line in lines))


def _check(path: Path | str, query_ids: Sequence[str], ranks: np.ndarray, n_gallery: int, top_k: int) -> None:
    if Path(path).is_dir():
        raise Top7Error(f"{path}: is a folder: expected the name of the CSV file to write")
    if not len(query_ids):
        raise Top7Error(f"{path}: no query to answer: expected at least one")
    if len(set(query_ids)) < len(query_ids):
        doubled = next(query for query in query_ids if list(query_ids).count(query) > 1)
        raise Top7Error(f"{path}: query {doubled!r} appears twice: expected each query once")
    if (
        ranks.ndim != 2
        or ranks.shape[0] != len(query_ids)
        or ranks.shape[1] < top_k
        or ranks.dtype.kind not in "iu"
    ):
        raise Top7Error(
            f"{path}: ranks of shape {ranks.shape} and type {ranks.dtype}: expected integers, "
            f"{len(query_ids)} queries by at least {top_k} gallery rows"
        )
    for query, rows in zip(query_ids, ranks[:, :top_k].tolist(), strict=True):
        if min(rows) < 0:
            raise Top7Error(
                f"{path}: query {query!r} has {sum(row >= 0 for row in rows)} answers: expected {top_k}; "
                f"the gallery needs at least {top_k} readable images"
            )
        if max(rows) >= n_gallery:
            raise Top7Error(
                f"{path}: query {query!r} is answered by gallery row {max(rows)}: expected a row below "
                f"{n_gallery}; the ranks belong to another gallery"
            )
        if len(set(rows)) < top_k:
            raise Top7Error(
                f"{path}: query {query!r} is answered by one gallery image twice: expected {top_k} "
                "distinct images"
            )


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
        raise Top7Error(
            f"{beside}: scores of shape {scores.shape} for {len(query_ids)} queries of {k} answers: remove "
            "the file and blend by rank"
        )
    return scores
