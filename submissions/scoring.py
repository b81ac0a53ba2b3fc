"""MAP@k of a submission file against a label file, by both conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.errors import Top7Error
from competition.labels import read_labels, relevant_rows
from competition.leaderboard import file_digest
from competition.metrics import CONVENTIONS, query_figures
from submissions.checking import Check, check_submission

RATES = ("recall", "precision")


@dataclass(frozen=True)
class Score:
    """What a submission got. labels: query -> correct gallery ids of the labelled queries, in the split's
    order.

    average_precisions: convention -> (n labelled queries,) float64, in the order of `labels`; n_unlabelled:
    queries of the split that the label file leaves out and that therefore count nowhere; rates: recall and precision.
    """

    path: Path
    sha256: str
    split: str
    top_k: int
    labels: Mapping[str, tuple[str, ...]]
    average_precisions: Mapping[str, np.ndarray]
    n_unlabelled: int
    rates: Mapping[str, float]

    def mean(self, convention: str = CONVENTIONS[0], mask: np.ndarray | None = None) -> float:
        """MAP@top_k over the labelled queries, or over those of them where `mask` (bool) holds."""
        values = self.average_precisions[convention]
        values = values if mask is None else values[mask]
        if not len(values):
            raise Top7Error(
                f"{self.path}: MAP@{self.top_k} of no query at all: expected at least one labelled query"
            )
        return float(np.mean(values))

    @property
    def maps(self) -> dict[str, float]:
        """Convention -> MAP@top_k."""
        return {convention: self.mean(convention) for convention in CONVENTIONS}


def read_submission(
    path: Path | str,
    *,
    splits: Mapping[str, Sequence[str]],
    gallery_ids: Sequence[str],
    top_k: int = 7,
    form: str = "plain",
) -> Check:
    """Read a submission without fault (see `check_submission`); Top7Error naming the first otherwise."""
    check = check_submission(path, splits=splits, gallery_ids=gallery_ids, top_k=top_k, form=form)
    if check.faults:
        count = f"{len(check.faults)} fault" + "s" * (len(check.faults) > 1)
        raise Top7Error(
            f"{path}: {count}, the first on {check.faults[0]}; ./run.sh check {path} lists them all"
        )
    return check


def score_submission(
    path: Path | str,
    labels_path: Path | str | Mapping[str, tuple[str, ...]],
    *,
    splits: Mapping[str, Sequence[str]],
    gallery_ids: Sequence[str],
    top_k: int = 7,
    form: str = "plain",
) -> Score:
    """Score the submission `path` with the label file `labels_path`, or with labels read before.

    splits: split -> query ids; gallery_ids: in row order. The labels may leave queries of the submission's
    split out (`n_unlabelled`), but not name others. Top7Error: a fault in either file.
    """
    check = read_submission(path, splits=splits, gallery_ids=gallery_ids, top_k=top_k, form=form)
    labels = labels_path
    if not isinstance(labels_path, Mapping):
        labels = read_labels(
            labels_path, query_ids=splits[check.split], gallery_ids=gallery_ids, complete=False
        )
    row_of = {gallery_id: row for row, gallery_id in enumerate(gallery_ids)}
    ranks = np.array(
        [[row_of[gallery_id] for gallery_id in check.answers[query]] for query in labels], dtype=np.int64
    )
    relevant = relevant_rows(labels, gallery_ids)
    values = {
        convention: query_figures(ranks, relevant, top_k, convention=convention) for convention in CONVENTIONS
    }
    return Score(
        Path(path),
        file_digest(path),
        check.split,
        top_k,
        labels,
        values,
        len(splits[check.split]) - len(labels),
        {metric: float(query_figures(ranks, relevant, top_k, metric).mean()) for metric in RATES}
        if len(ranks)
        else {},
    )
