"""MAP@k of a submission file against a label file, by both conventions, and its line of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Competition, Configuration
from competition.configured import labelled_validation
from competition.errors import ConfigurationError
from competition.labels import measured_by, read_labels, relevant_rows
from competition.leaderboard import file_digest, read_rows, record_score
from competition.metrics import CONVENTIONS, WHOLE_LISTS, figure_label, query_figures, ranked_by
from competition.splits import groups_and_private
from submissions.checking import Expected, expected_of, read_submission

RATES = ("recall", "precision")
Labels = Mapping[str, tuple[str, ...]]  # query -> correct gallery ids


def score_submission(
    path: Path | str, labels: Path | str | Labels, expected: Expected
) -> tuple[str, Labels, dict[str, np.ndarray]]:
    """Score the submission `path` with a label file, or with labels read before; returns (split, labels, figures).

    labels returned: of the labelled queries, in the split's order; figures: convention of MAP, or "recall" or
    "precision" -> (n labelled queries,) float64, in the same order. The labels may leave queries of the submission's
    split out, which then count nowhere, but not name others. Top7Error: a fault in either file.
    """
    check, gallery, top_k = read_submission(path, expected), expected.gallery_ids, expected.top_k
    split = str(check.split)
    if not isinstance(labels, Mapping):
        queries = expected.splits[split]
        labels = read_labels(labels, query_ids=queries, gallery_ids=gallery, complete=False)
    ranks, relevant = check.ranks(labels, gallery), relevant_rows(labels, gallery)
    figures = {name: query_figures(ranks, relevant, top_k, convention=name) for name in CONVENTIONS}
    figures |= {metric: query_figures(ranks, relevant, top_k, metric) for metric in RATES}
    return split, labels, figures


def score_and_record(configuration: Configuration, file: Path, labels: Path | None = None) -> dict:
    """Score `file` by both conventions of MAP and by the competition's metric, and record it.

    labels: a file, by default the configuration's; ConfigurationError where it has none. Public and private by that
    metric, for validation queries; a whole-list mAP knows none, a file does not hold such lists. A file that `submit`
    wrote is recognised by its bytes; its recipe, weights and tuning's figures stay beside it.
    """
    competition, expected = configuration.competition, expected_of(configuration)
    gallery = expected.gallery_ids
    given: Path | str | Labels | None = labels or competition.labels
    if given is None and competition.format is not None:
        _, given, _ = labelled_validation(configuration, gallery)
    if given is None:
        raise ConfigurationError(f"{configuration.path}: [competition] has no labels: give --labels FILE")
    split, told, figures = score_submission(file, given, expected)
    means = {name: float(np.mean(each)) for name, each in figures.items()}
    unlabelled, own = len(expected.splits[split]) - len(told), ranked_by(competition.metric)
    entry: dict[str, Any] = {
        "file": str(file),
        "sha256": file_digest(file),
        "split": split,
        "top_k": competition.top_k,
        "maps": {convention: means[convention] for convention in CONVENTIONS},
        "data": measured_by(told, gallery, competition.top_k, competition.metric),
    }
    if split == "validation" and not unlabelled and own in figures:
        _, private = groups_and_private(relevant_rows(told, gallery), configuration.tuning)
        parts = {"public": ~private, "private": private}
        entry |= {part: float(figures[own][mask].mean()) for part, mask in parts.items() if mask.any()}
    values = {**entry, "queries": len(told), "unlabelled": unlabelled}
    known = next((row for row in read_rows(competition.work) if row.sha256 == entry["sha256"]), None)
    if competition.metric in RATES:
        values["metric"] = means[own]
        entry["maps"] = {**entry["maps"], own: means[own]}
    elif known is not None and known.data == entry["data"]:
        entry["maps"] = {**known.maps, **entry["maps"]}  # a whole-list mAP, which the file does not hold
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
