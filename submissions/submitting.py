"""Write submissions, checked before a byte is written, note them on the leaderboard, and say what to expect of them.

A file is UTF-8 with \\n, `id,id1,…,id7` a line without a header, or of Kaggle's form: the header `id,images`, and the
gallery ids of a query separated by spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from competition.atomic import write_text
from competition.configuration import Competition, Configuration
from competition.configured import split_images
from competition.errors import Top7Error
from competition.leaderboard import file_digest, record_score
from competition.messages import log
from competition.metrics import figure_label, ranked_by
from features.descriptors import gallery_ids
from features.ranked_lists import RankedLists, ranked_lists
from features.recipes.kept import OF_QUERIES, is_of_this_data
from features.recipes.recipe import Recipe

if TYPE_CHECKING:
    import optuna

KAGGLE_HEADER = "id,images"
KINDS = {  # of figures, the most honest one first
    "validated": "on queries that did not choose it",
    "cross-validated": "cross-validated",
    "bias-corrected": "bootstrap bias correction",
    "all": "on the labelled queries, which chose it if it was tuned: optimistic",
}


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
        rows = (line.split(",") for line in beside.read_text(encoding="utf-8").splitlines())
        values = {query: [float(score) for score in scores] for query, *scores in rows}
        return np.array([values[query] for query in query_ids]).reshape(len(query_ids), k)
    except (OSError, ValueError, KeyError) as error:
        raise Top7Error(
            f"{beside}: not the scores of {path} ({error!r}): remove the file and blend by rank"
        ) from None


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
    queries = split_images(configuration, split).ids
    if distinct:
        from submissions.duplicates import distinct_lists

        lists = distinct_lists(configuration, recipe, split, queries, distinct)
    else:
        lists = ranked_lists(configuration, recipe, split, queries, gallery_ids(configuration))
    names = [component.name for component in recipe.components]
    about = {"recipe": recipe.name, "weights": dict(zip(names, recipe.weights)), "expected": recipe.scores}
    if distinct or "figures of" in recipe.provenance:
        about["figures_of"] = "lists without --distinct" if distinct else recipe.provenance["figures of"]
    data = recipe.provenance.get("data", {})
    return write_and_note(configuration, lists, split, out, recipe.name, about, data)


def write_and_note(
    configuration: Configuration,
    lists: RankedLists,
    split: str,
    out: Path | None,
    name: str,
    about: Mapping[str, Any],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """Write lists and their scores to `out` (default <work>/submissions/<name>-<split>.csv); returns what was written.

    It is noted on the leaderboard with the figures on the validation queries that are expected of it, if known. data:
    what those were measured by (`features.recipes.kept.data_identity`).
    """
    competition = configuration.competition
    path = Path(out or competition.work / "submissions" / f"{name}-{split}.csv")
    write_lists(path, lists, competition)
    write_scores(path, lists.query_ids, lists.scores)
    values: dict[str, Any] = {"file": str(path), "sha256": file_digest(path), "split": split}
    values |= {"queries": len(lists.query_ids), **about}
    expected = about["expected"]
    if "all" in expected:
        columns = {"public": "public", "private": "private", "cross-validated": "cross_validated"}
        noted = ("file", "sha256", "split", "recipe", "weights", "figures_of")
        entry = {key: values[key] for key in noted if key in values}
        entry |= {column: expected[part] for part, column in columns.items() if part in expected}
        entry["maps"] = {ranked_by(str(data.get("metric", "map"))): expected["all"]}
        entry["data"] = {key: data[key] for key in OF_QUERIES if key in data}
        record_score(competition.work, {**entry, "measured_on": "validation", "top_k": data.get("top_k")})
    return values


def expectation(configuration: Configuration, written: Mapping, recipe: Recipe | None = None) -> str:
    """Return in one line what was written, by which recipe, and the figure to expect. recipe: None for a blend."""
    figures = written["expected"]
    name = figure_label(configuration.competition.metric, configuration.competition.top_k)
    by = written["recipe"] if recipe is None else f"recipe {written['recipe']}"
    line = f"{written['queries']} queries of {written['split']} by {by}; "
    kind = next((kind for kind in KINDS if kind in figures), None)
    if "unknown" in written:
        return line + f"the figure to expect is unknown: {written['unknown']}"
    if kind is None:
        return line + "no figure is known: ./run.sh compare gives one where there are labels"
    if "simulated" in figures and "all" not in figures:
        return line + f"{name} {figures[kind]:.4f} on simulated photos, which no real query need reach"
    of = f", of {written['figures_of']}" if "figures_of" in written else ""
    if recipe is not None and kind == "validated" and not is_of_this_data(configuration, recipe):
        of = ", of other data than there are now"
    line += f"expected {name} {figures[kind]:.4f} ({KINDS[kind]}{of})"
    if recipe is None or of:
        return line
    told = fold_figures(configuration, recipe)
    if told is not None:
        mean = "" if kind == "cross-validated" else f"; cross-validated {told['mean']:.4f}"
        return f"{line}{mean}, {_interval(told['interval'])}"
    return f"{line}, {_interval(recipe.provenance['interval'])}" if "interval" in recipe.provenance else line


def _interval(interval: Sequence[float] | None) -> str:
    return "no interval from one group" if interval is None else "95 % {:.4f} to {:.4f}".format(*interval)


def study_of(configuration: Configuration, recipe: Recipe) -> optuna.Study | None:
    """Return the study that a recipe comes from; None, with a message, where it is gone."""
    import optuna

    from tuning.storage import open_storage

    name = recipe.provenance.get("study")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = open_storage(configuration.tuning.storage, configuration.competition.work)
        return optuna.load_study(study_name=str(name), storage=storage)
    except (KeyError, OSError, Top7Error) as error:
        log.warning(f"top7: study {name} of recipe {recipe.name} cannot be read: {error}")
        return None


def fold_figures(configuration: Configuration, recipe: Recipe) -> Mapping | None:
    """Return mean, interval and spread over folds of a recipe's study, None where it was not cross-validated."""
    from tuning.study import CROSS_VALIDATED

    study = study_of(configuration, recipe) if "cross-validated" in recipe.scores else None
    found = None if study is None else study.user_attrs.get(CROSS_VALIDATED)
    same = found is not None and abs(found["mean"] - recipe.scores["cross-validated"]) < 1e-9
    return found if same else None  # of a later run otherwise
