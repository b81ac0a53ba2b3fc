"""MAP@k of a submission file against a label file, by both conventions, and its line of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.configuration import Competition, Configuration
from competition.errors import Top7Error
from competition.labels import measured_by, read_labels, relevant_rows
from competition.leaderboard import file_digest, read_rows, record_score
from competition.metrics import CONVENTIONS, WHOLE_LISTS, figure_label, query_figures, ranked_by
from competition.splits import private_mask, query_groups
from submissions.checking import Expected, read_submission

RATES = ("recall", "precision")
Labels = Mapping[str, tuple[str, ...]]  # query -> correct gallery ids


@dataclass(frozen=True)
class Score:
    """What a submission got. labels: query -> correct gallery ids of the labelled queries, in the split's order.

    values: convention of MAP, or "recall" or "precision" -> (n labelled queries,) float64, in the order of `labels`;
    n_unlabelled: queries of the split that the label file leaves out and that therefore count nowhere.
    """

    path: Path
    sha256: str
    split: str
    top_k: int
    labels: Labels
    values: Mapping[str, np.ndarray]
    n_unlabelled: int

    def mean(self, name: str = CONVENTIONS[0], mask: np.ndarray | None = None) -> float:
        """One figure over the labelled queries, or over those of them where `mask` (bool) holds."""
        values = self.values[name]
        values = values if mask is None else values[mask]
        if not len(values):
            none = f"{name} at {self.top_k} of no query at all"
            raise Top7Error(f"{self.path}: {none}: expected at least one labelled query")
        return float(np.mean(values))

    @property
    def maps(self) -> dict[str, float]:
        """Convention -> MAP@top_k."""
        return {convention: self.mean(convention) for convention in CONVENTIONS}


def score_submission(path: Path | str, labels_path: Path | str | Labels, expected: Expected) -> Score:
    """Score the submission `path` with the label file `labels_path`, or with labels read before.

    The labels may leave queries of the submission's split out (`n_unlabelled`), but not name others. Top7Error: a fault
    in either file.
    """
    check, gallery, top_k = read_submission(path, expected), expected.gallery_ids, expected.top_k
    split = str(check.split)
    queries = expected.splits[split]
    labels = labels_path
    if not isinstance(labels, Mapping):
        labels = read_labels(labels, query_ids=queries, gallery_ids=gallery, complete=False)
    ranks = check.ranks(labels, gallery)
    relevant = relevant_rows(labels, gallery)
    values = {name: query_figures(ranks, relevant, top_k, convention=name) for name in CONVENTIONS}
    values |= {metric: query_figures(ranks, relevant, top_k, metric) for metric in RATES}
    unlabelled = len(queries) - len(labels)
    return Score(Path(path), file_digest(path), split, top_k, labels, values, unlabelled)


def score_and_record(
    configuration: Configuration, file: Path, labels: Path | str | Labels, expected: Expected
) -> dict:
    """Score `file` by both conventions of MAP and by the competition's metric, and record it.

    Public and private by that metric, for validation queries; a whole-list mAP knows none, a file does not hold such lists.
    A file that `submit` wrote is recognised by its bytes; its recipe, weights and tuning's figures stay beside it.
    """
    competition = configuration.competition
    gallery, scored = expected.gallery_ids, score_submission(file, labels, expected)
    values = {
        "file": str(file),
        "sha256": scored.sha256,
        "split": scored.split,
        "queries": len(scored.labels),
        "top_k": competition.top_k,
        "maps": scored.maps,
        "data": measured_by(scored.labels, gallery, competition.top_k, competition.metric),
        "unlabelled": scored.n_unlabelled,
    }
    own = ranked_by(competition.metric)
    if competition.metric in RATES:
        values["metric"] = scored.mean(own)
    if scored.split == "validation" and not scored.n_unlabelled and own in scored.values:
        groups = query_groups(relevant_rows(scored.labels, gallery))
        private = private_mask(groups, configuration.tuning.private, configuration.tuning.seed)
        values["public"] = scored.mean(own, ~private)
        if np.any(private):
            values["private"] = scored.mean(own, private)
    known = next((row for row in read_rows(competition.work) if row.sha256 == scored.sha256), None)
    entry = {key: value for key, value in values.items() if key not in ("queries", "unlabelled", "metric")}
    if "metric" in values:
        entry["maps"] = {**scored.maps, own: values["metric"]}
    elif known is not None and known.data == values["data"]:
        entry["maps"] = {**known.maps, **scored.maps}  # a whole-list mAP, which the file does not hold
    if known is not None:
        noted = {part: getattr(known, part) for part in ("public", "private", "cross_validated")}
        noted = {part: value for part, value in noted.items() if value is not None}
        entry = {**known.details, **noted, **entry}
        entry.pop("figures_of", None)
    record_score(competition.work, entry)
    return values


def score_text(values: Mapping, competition: Competition) -> str:
    """Return what `score_and_record` found, in words."""
    top_k = competition.top_k
    lines = [f"{values['file']}: {values['split']}, {values['queries']} labelled queries"]
    lines += [f"MAP@{top_k} {value:.4f}  ({convention})" for convention, value in values["maps"].items()]
    if "metric" in values:
        lines.append(f"{figure_label(competition.metric, top_k)} {values['metric']:.4f}")
    elif competition.metric == WHOLE_LISTS:
        lines.append("mAP is of whole lists, which this file does not hold: ./run.sh compare RECIPE gives it")
    if "public" in values:
        private = f", private {values['private']:.4f}" if "private" in values else ""
        seen = f"({ranked_by(competition.metric)}; what the study saw and did not see)"
        lines.append(f"public {values['public']:.4f}{private}  {seen}")
    return "\n".join(lines)
