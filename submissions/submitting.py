"""Write the submission of a recipe, and note it on the leaderboard with the figures that are expected of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.configured import split_images
from competition.leaderboard import file_digest, record_score
from competition.metrics import ranked_by
from features.descriptors import gallery_ids
from features.ranked_lists import RankedLists, ranked_lists
from features.recipes.kept import OF_QUERIES
from features.recipes.recipe import Recipe
from submissions.writing import write_lists, write_scores


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
    queries = split_images(configuration, split)
    lists = _lists(configuration, recipe, split, queries.ids, distinct)
    values = write_with_scores(configuration, lists, split, recipe.name, out)
    names = [component.name for component in recipe.components]
    values |= {"recipe": recipe.name, "weights": dict(zip(names, recipe.weights)), "expected": recipe.scores}
    if distinct or "figures of" in recipe.provenance:
        values["figures_of"] = "lists without --distinct" if distinct else recipe.provenance["figures of"]
    record_expected(configuration.competition.work, values, recipe.provenance.get("data", {}))
    return values


def write_with_scores(
    configuration: Configuration, lists: RankedLists, split: str, name: str, out: Path | None
) -> dict[str, Any]:
    """Write lists and their scores to `out` (default <work>/submissions/<name>-<split>.csv); returns what was written."""
    path = Path(out or configuration.competition.work / "submissions" / f"{name}-{split}.csv")
    write_lists(path, lists, configuration.competition)
    write_scores(path, lists.query_ids, lists.scores)
    digest = file_digest(path)
    return {"file": str(path), "sha256": digest, "split": split, "queries": len(lists.query_ids)}


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
    entry |= {
        "measured_on": "validation",
        "maps": {ranked_by(str(data.get("metric", "map"))): expected["all"]},
    }
    entry["data"] = {key: data[key] for key in OF_QUERIES if key in data}
    record_score(work, {**entry, "top_k": data.get("top_k")})


def _lists(
    configuration: Configuration, recipe: Recipe, split: str, query_ids: Sequence[str], distinct: bool | float
) -> RankedLists:
    ids = gallery_ids(configuration)
    if not distinct:
        return ranked_lists(configuration, recipe, split, query_ids, ids)
    from features.extraction import exact_duplicates
    from submissions.distinct import distinct_looks, look_dump

    first = exact_duplicates(configuration)
    repeated = first != np.arange(len(first))

    def lists_of(depth: int | None = None) -> RankedLists:
        return ranked_lists(configuration, recipe, split, query_ids, ids, k=depth, left_out=repeated)

    if distinct is True:
        return lists_of()
    _, dump = look_dump(configuration, ids)
    listable = int((~(repeated | dump.unreadable)).sum())
    return distinct_looks(lists_of, dump, distinct, configuration.competition.top_k, listable)
