"""Write the submission of a recipe, and score files against labels, with what the leaderboard keeps of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from competition.atomic import unless_read_only
from competition.configuration import Configuration
from competition.images import split_images
from competition.labels import measured_by, relevant_rows
from competition.leaderboard import file_digest, read_rows, record_score
from competition.messages import log
from competition.splits import private_mask, query_groups
from features.descriptors import gallery_ids
from features.ranked_lists import RankedLists, ranked_lists
from features.recipes.kept import OF_QUERIES
from features.recipes.recipe import Recipe
from submissions.blending import write_scores
from submissions.scoring import score_submission
from submissions.writing import write_submission


def submit(
    configuration: Configuration,
    recipe: Recipe,
    split: str,
    out: Path | None = None,
    *,
    distinct: bool | float = False,
) -> dict:
    """Write the submission of a recipe for `split` and note it on the leaderboard; returns what it is.

    It is noted with its recipe's figures on the labelled validation queries. distinct: of gallery files with the
    same content only the first row may be listed; a number: nor any image with that cosine or more to a better one
    of its list.
    """
    competition = configuration.competition
    queries = split_images(configuration, split)
    lists = _lists(configuration, recipe, split, queries.ids, distinct)
    for query in lists.unreadable:
        log.warning(f"top7: query {query} could not be read: its line holds the first gallery images")
    path = (
        Path(out)
        if out is not None
        else Path(competition.work) / "submissions" / f"{recipe.name}-{split}.csv"
    )
    form = competition.submission
    write_submission(path, lists.query_ids, lists.ranks, lists.gallery_ids, competition.top_k, form)
    write_scores(path, lists.query_ids, lists.scores)
    weights = {component.name: weight for component, weight in zip(recipe.components, recipe.weights)}
    values = {
        "file": str(path),
        "sha256": file_digest(path),
        "split": split,
        "queries": len(lists.query_ids),
        "recipe": recipe.name,
        "weights": weights,
        "expected": recipe.scores,
    }
    if "figures of" in recipe.provenance:
        values["figures_of"] = recipe.provenance["figures of"]
    record_expected(competition.work, values, recipe.provenance.get("data", {}))
    return values


def record_expected(work: Path, values: Mapping, data: Mapping) -> None:
    """Note a submission on the leaderboard with the figures on the validation queries that are expected of it, if known.

    data: what those were measured by (`features.recipes.kept.data_identity`).
    """
    expected = values["expected"]
    if "all" not in expected:
        return
    noted = ("file", "sha256", "split", "recipe", "weights", "figures_of")
    entry = {key: values[key] for key in noted if key in values}
    entry |= {part: expected[part] for part in ("public", "private") if part in expected}
    if "cross-validated" in expected:
        entry["cross_validated"] = expected["cross-validated"]
    entry |= {"measured_on": "validation", "maps": {"min(m,k)": expected["all"]}}
    _record(
        work,
        {**entry, "data": {key: data[key] for key in OF_QUERIES if key in data}, "top_k": data.get("top_k")},
    )


def _lists(
    configuration: Configuration, recipe: Recipe, split: str, query_ids: Sequence[str], distinct: bool | float
) -> RankedLists:
    ids = gallery_ids(configuration)
    if not distinct:
        return ranked_lists(configuration, recipe, split, query_ids, ids, progress=True)
    from features.extraction import exact_duplicates
    from submissions.distinct import distinct_looks, look_dump

    first = exact_duplicates(configuration)
    repeated = first != np.arange(len(first))

    def lists_of(depth: int | None = None) -> RankedLists:
        return ranked_lists(
            configuration, recipe, split, query_ids, ids, k=depth, left_out=repeated, progress=True
        )

    if distinct is True:
        return lists_of()
    _, dump = look_dump(configuration, ids)
    listable = int((~(repeated | dump.unreadable)).sum())
    return distinct_looks(lists_of, dump, distinct, configuration.competition.top_k, listable)


def score_and_record(
    configuration: Configuration,
    file: Path,
    labels: Path | str,
    queries: Mapping[str, Sequence[str]],
    gallery: Sequence[str],
) -> dict:
    """Score `file` against `labels` by both conventions and record it; public and private for validation queries.

    A file that `submit` wrote is recognised by its bytes; its recipe, weights and tuning's figures stay beside it.
    """
    competition = configuration.competition
    scored = score_submission(
        file,
        labels,
        splits=queries,
        gallery_ids=gallery,
        top_k=competition.top_k,
        form=competition.submission,
    )
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
    if competition.metric in scored.rates:
        values["metric"] = scored.rates[competition.metric]
    if scored.split == "validation" and not scored.n_unlabelled:
        groups = query_groups(relevant_rows(scored.labels, gallery))
        private = private_mask(groups, configuration.tuning.private, configuration.tuning.seed)
        values["public"] = scored.mean(mask=~private)
        if np.any(private):
            values["private"] = scored.mean(mask=private)
    known = next((row for row in read_rows(competition.work) if row.sha256 == scored.sha256), None)
    entry = {key: value for key, value in values.items() if key not in ("queries", "unlabelled", "metric")}
    if known is not None:
        noted = {part: getattr(known, part) for part in ("public", "private", "cross_validated")}
        entry = {
            **{key: value for key, value in known.details.items() if key != "figures_of"},
            **{part: value for part, value in noted.items() if value is not None},
            **entry,
        }
    _record(competition.work, entry)
    return values


def _record(work: Path, entry: Mapping) -> None:
    """Note `entry` on the leaderboard, or say that the work folder is read-only."""
    with unless_read_only(f"{work}: nothing is recorded on the leaderboard"):
        record_score(work, entry)
