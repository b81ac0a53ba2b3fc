"""What to expect of a submission: the most honest figure that its recipe carries, with a 95 % interval where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from competition.configuration import Configuration
from competition.errors import Top7Error
from competition.messages import log
from competition.metrics import figure_label
from features.recipes.kept import is_of_this_data
from features.recipes.recipe import Recipe

if TYPE_CHECKING:
    import optuna

KINDS = {  # the most honest one first
    "validated": "on queries that did not choose it",
    "cross-validated": "cross-validated",
    "bias-corrected": "bootstrap bias correction",
    "all": "on the labelled queries, which chose it if it was tuned: optimistic",
}


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
        storage = open_storage(configuration.tuning.storage, Path(configuration.competition.work))
        return optuna.load_study(study_name=str(name), storage=storage)
    except (KeyError, OSError, Top7Error) as error:
        log.warning(f"top7: study {name} of recipe {recipe.name} cannot be read: {error}")
        return None


def fold_figures(configuration: Configuration, recipe: Recipe) -> Mapping | None:
    """Return mean, interval and spread over folds of a recipe's study, None where it was not cross-validated."""
    from tuning.study import CROSS_VALIDATED

    if "cross-validated" not in recipe.scores:
        return None
    study = study_of(configuration, recipe)
    found = None if study is None else study.user_attrs.get(CROSS_VALIDATED)
    same = found is not None and abs(found["mean"] - recipe.scores["cross-validated"]) < 1e-9
    return found if same else None  # of a later run otherwise
