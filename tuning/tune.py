"""`tune`: from dumps and labels to a recipe, with figures that do not fool their reader."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna

from competition.configuration import Configuration
from competition.messages import log
from competition.metrics import figure_label
from competition.progress import Progress
from features.recipes.kept import data_identity, keep_recipe, readable
from features.recipes.recipe import Recipe
from tuning import study as studies
from tuning.best import Point, best_point, certified, check_certifiable, other_figures
from tuning.certificate import Certificate
from tuning.combination import Combination
from tuning.described import study_attributes, trial_attributes
from tuning.evaluating import evaluated, mean_figures
from tuning.forecast import (
    Kind,
    affordable_folds,
    cost,
    kinds_of,
    kinds_text,
    showable_gain,
    timed_trials,
)
from tuning.gallery_pass import excluded_rows
from tuning.labelled import Labelled, objective_of
from tuning.landscape import Landscape
from tuning.misses import Miss, find_misses, write_misses
from tuning.named_points import NamedPoint, named_points
from tuning.region import barycentric, contains
from tuning.samplers import make_sampler
from tuning.storage import open_storage
from tuning.validation import Comparison, CrossValidated
from tuning.verdict import Judged, cross_validated, importances, judge, near_best_share, without_luck

NO_FOLDS = "no cross-validation: each trial ranks the whole gallery here, and folds would repeat the study: --folds 5 does it"


@dataclass
class Tuned:
    """All that `tune` found.

    recipe: the study's best; untuned: equal weights of the first choices, or the recipe under study as it is;
    comparison: on queries that did not choose; None where there are none, as with one group; bias_corrected:
    MAP@k on the public queries without the luck of the best of many trials; mixed: why the trials' figures do
    not compare.
    """

    recipe: Recipe
    untuned: Recipe
    combination: Combination
    coordinates: np.ndarray
    labelled: Labelled
    trials: int
    new_trials: int
    named: list[NamedPoint]
    comparison: Comparison | None
    bias_corrected: float | None = None
    cross_validated: CrossValidated | None = None
    certificate: Certificate | None = None
    importances: dict[str, float] = field(default_factory=dict)
    near_best_share: float = 0.0
    paths: dict[str, Path] = field(default_factory=dict)
    kinds: list[Kind] = field(default_factory=list)
    misses: list[Miss] | None = None
    mixed: str | None = None
    kept_files: tuple[int, int] = (0, 0)


def tune(
    configuration: Configuration,
    *,
    trials: int | None = None,
    seed: int | None = None,
    folds: int | None = None,
    repeats: int = 2,
    certify_seconds: float | None = None,
    certify_all: bool = False,
    recipe: Recipe | None = None,
    progress: bool = True,
) -> Tuned:
    """Run the study until it holds `trials` in all, validate it, and write the recipe of its best point.

    folds: of the cross-validation, None for 5 where trials are cheap; certify_seconds: then search by branch
    and bound, over the recipe's choices or (certify_all) all of the study's; recipe: study this one instead
    of the configuration's choices (see `tuning.space.space_of`).
    """
    landscape = Landscape(configuration, recipe=recipe, progress=progress)
    if certify_seconds:
        check_certifiable(landscape)
    plan = _plan(landscape, trials, seed)
    study, write_s = _open(landscape, plan)
    before = len(studies.completed(study))
    if folds is None:
        folds = affordable_folds(
            landscape, landscape.combination(landscape.space.default), plan.total * repeats
        )
        if folds == 0:
            log.info(NO_FOLDS)
    kinds, untuned, untuned_values = _forecast(landscape, plan, before, write_s, folds * repeats)
    mixed = other_figures(landscape, study)
    if mixed is not None:
        log.warning(f"WARNING: {mixed}")
    _run(landscape, study, plan, progress)

    point = best_point(landscape, study)
    lucky = without_luck(landscape, study, plan.seed)
    write = partial(_written, landscape, study, plan, untuned, untuned_values, lucky, _earlier(landscape))
    written = write(point)  # what follows takes long, and may be interrupted
    certificate = found = None
    if certify_seconds:
        certificate, point = certified(landscape, point, certify_seconds, certify_all, progress)
        written = write(point, certificate)
    named = _named(landscape, point)
    if folds >= 2 and lucky is not None:
        found = cross_validated(landscape, plan, folds, repeats, progress)
        study.set_user_attr(studies.CROSS_VALIDATED, found.figures())
        written = write(point, certificate, found)
    combination, finished = landscape.combination(point.choice), len(studies.completed(study))
    misses = _misses(landscape, point, written.paths)
    return Tuned(
        written.recipe,
        untuned,
        combination,
        point.coordinates,
        landscape.labelled,
        finished,
        finished - before,
        named,
        written.judged.comparison,
        written.judged.bias_corrected,
        found,
        certificate,
        importances(study),
        near_best_share(combination, written.values, landscape.labelled),
        written.paths,
        kinds,
        misses,
        mixed,
        landscape.kept_files(),
    )


def _plan(landscape: Landscape, trials: int | None, seed: int | None) -> studies.TrialPlan:
    settings = landscape.configuration.tuning
    return studies.TrialPlan(
        landscape.space,
        settings.trials if trials is None else trials,
        settings.seed if seed is None else seed,
        settings.sampler,
        tuple(_recipe_point(landscape)),
    )


def _recipe_point(landscape: Landscape) -> list[studies.Parameters]:
    """The parameters of the recipe under study itself, where the region holds its weights."""
    recipe, default = landscape.space.recipe, landscape.space.default
    if recipe is None:
        return []
    combination = landscape.combination(default)
    if len(combination.components) < len(recipe.weights):  # joined: all points are one
        return []
    if not contains(recipe.weight_array, combination.sums, combination.chains):
        log.warning(
            f"the weights of {recipe.name} lie outside the region [tuning] region = "
            f"{landscape.configuration.tuning.region!r}: it is scored beside the study, which cannot try it"
        )
        return []
    coordinates = np.maximum(barycentric(recipe.weight_array, combination.sums, combination.chains), 0.0)
    return [studies.parameters(default, np.exp(-coordinates))]


def _forecast(
    landscape: Landscape, plan: studies.TrialPlan, there: int, write_s: float, folds: int
) -> tuple[list[Kind], Recipe, np.ndarray]:
    """Say what the study costs and what it can show; returns kinds of trials, the untuned recipe and its AP@k (Q,).

    there: trials that the study holds; write_s: seconds of one entry in its storage; folds: of all repeats.
    """
    log.info(
        f"candidates and what steps keep: {landscape.kept_files()[1] / 2**20:.1f} MiB now, at most "
        f"{landscape.cache_bytes / 2**20:.1f} MiB ([tuning] cache_gib); least recently used goes first"
    )
    timed = timed_trials(landscape, plan)
    kinds = kinds_of(landscape, timed)
    log.info(kinds_text(kinds))
    if there < plan.total:
        log.info(cost(landscape, plan, timed, there=there, write_s=write_s, folds=folds).sentence())
    untuned, values = _untuned(landscape)
    log.info(showable_gain(landscape, values))
    return kinds, untuned, values


def _untuned(landscape: Landscape) -> tuple[Recipe, np.ndarray]:
    """What a team without labels would submit, and its AP@k (Q,).

    It is the recipe under study as it is, or the first choices, equal weights and the first values of the
    steps.
    """
    choice, recipe = landscape.space.default, landscape.space.recipe
    components = landscape.space.components_of(choice)
    weights = np.full(len(components), 1.0 / len(components)) if recipe is None else recipe.weight_array
    values = landscape.full_precisions(choice, weights, landscape.combination(choice).corners)
    made = Recipe(
        "untuned",
        components,
        tuple(map(float, weights)),
        dict(choice),
        {},
        {"competition": landscape.configuration.competition.name, **_studied(landscape)},
        landscape.recipe_steps(choice, weights),
    )
    return evaluated(landscape.configuration, made, values, landscape.labelled), values


def _open(landscape: Landscape, plan: studies.TrialPlan) -> tuple[optuna.Study, float]:
    """Open the study, which says what it is of; returns it and the seconds that one of its entries took to write."""
    storage = open_storage(landscape.configuration.tuning.storage, landscape.work)
    name = f"{landscape.study_name()}-seed{plan.seed}"
    study = studies.open_study(storage, name, make_sampler(plan.sampler, plan.seed))
    attributes = {**study_attributes(landscape), "trials": plan.total}
    new = {key: value for key, value in attributes.items() if study.user_attrs.get(key) != value}
    begun = time.perf_counter()
    for key, value in new.items():
        study.set_user_attr(key, value)
    return study, (time.perf_counter() - begun) / max(1, len(new))


def _run(landscape: Landscape, study: optuna.Study, plan: studies.TrialPlan, progress: bool) -> None:
    """Run the trials that the study lacks, with a progress bar."""

    def evaluate(choice: studies.Parameters, coordinates: np.ndarray) -> float:
        return landscape.map_inside(choice, coordinates, landscape.labelled.public)

    def noted(choice: studies.Parameters, coordinates: np.ndarray) -> dict[str, object]:
        """Weights and private figure, for people; what costs a ranking of the whole gallery, for bias correction."""
        found: dict[str, object] = dict(trial_attributes(landscape, choice, coordinates))
        if landscape.combination(choice).padded is None:
            found[studies.PRECISIONS] = landscape.precisions(choice, coordinates).tolist()
        return found

    def finished(study: optuna.Study) -> None:
        figure = figure_label(landscape.metric, landscape.top_k)
        bar.set_postfix_str(f"best {figure} {study.best_value:.4f}", refresh=False)
        bar.update()

    there = min(len(studies.completed(study)), plan.total)
    with Progress(total=plan.total, initial=there, unit="trial", desc="tune", shown=progress) as bar:
        studies.run_trials(study, plan, evaluate, noted=noted, finished=finished)


def _earlier(landscape: Landscape) -> dict[str, Recipe]:
    """The recipes that are kept already, by name, but for one under study that was written as untuned."""
    found = {path.stem: readable(path) for path in (landscape.work / "recipes").glob("*.json")}
    return {
        name: recipe
        for name, recipe in found.items()
        if recipe is not None and not (name == "untuned" and "studied" in recipe.provenance)
    }


@dataclass(frozen=True)
class _Written:
    """The recipe of a point as written; values: its AP@k (Q,); paths: its files by what they are."""

    recipe: Recipe
    values: np.ndarray
    judged: Judged
    paths: dict[str, Path]


def _written(
    landscape: Landscape,
    study: optuna.Study,
    plan: studies.TrialPlan,
    untuned: Recipe,
    untuned_values: np.ndarray,
    lucky: np.ndarray | None,
    earlier: dict[str, Recipe],
    point: Point,
    certificate: Certificate | None = None,
    found: CrossValidated | None = None,
) -> _Written:
    """Write the recipe of a point with what it is worth, and the untuned one; better `earlier` ones are kept."""
    choice, labelled = point.choice, landscape.labelled
    values = landscape.precisions(choice, point.coordinates)
    weights = landscape.recipe_weights(choice, point.coordinates)
    best = Recipe(
        "best",
        landscape.space.components_of(choice),
        tuple(map(float, weights)),
        dict(choice),
        mean_figures(values, labelled),
        _provenance(landscape, study, plan, point, certificate),
        tuple(landscape.recipe_steps(choice, weights)),
    )
    judged = judge(best, values, untuned_values, labelled, lucky, found, certificate)
    made = {"recipe": best, "untuned": untuned}
    if landscape.space.recipe is not None:
        made["tuned"] = replace(best, name=f"{landscape.space.recipe.name.removesuffix('-tuned')}-tuned")
    folder = landscape.work / "recipes"
    paths = {
        key: keep_recipe(folder / f"{recipe.name}.json", recipe, earlier.get(recipe.name))
        for key, recipe in made.items()
    }
    return _Written(best, values, judged, paths)


def _provenance(
    landscape: Landscape,
    study: optuna.Study,
    plan: studies.TrialPlan,
    point: Point,
    certificate: Certificate | None,
) -> dict[str, object]:
    configuration, settings = landscape.configuration, landscape.configuration.tuning
    return {
        "competition": configuration.competition.name,
        "data": data_identity(configuration, landscape.space.components_of(point.choice)),
        "convention": "min(m,k)",
        "region": settings.region,
        "sums": list(map(float, landscape.combination(point.choice).sums)),
        "study": study.study_name,
        "seed": plan.seed,
        "trials": plan.total,
        "sampler": settings.sampler,
        "private share": settings.private,
        "objective": objective_of(configuration),
        **_studied(landscape),
        **({} if certificate is None else {"certified bound": certificate.bound}),
    }


def _studied(landscape: Landscape) -> dict[str, str]:
    return {} if landscape.space.recipe is None else {"studied": landscape.space.recipe.name}


def _named(landscape: Landscape, point: Point) -> list[NamedPoint]:
    """Points worth knowing under the best's choices, by full ranking."""
    combination = landscape.combination(point.choice)

    def precisions(weights: np.ndarray) -> np.ndarray:
        return landscape.full_precisions(point.choice, weights, combination.corners)

    return named_points(combination, precisions)


def _misses(landscape: Landscape, point: Point, paths: dict[str, Path]) -> list[Miss] | None:
    """Write the correct images that the best recipe misses; None where there are no candidates to explain them by."""
    combination, labelled = landscape.combination(point.choice), landscape.labelled
    if combination.padded is None:
        return None
    prepared, asked = landscape.prepared(point.choice), np.flatnonzero(labelled.reported)
    misses = find_misses(
        combination.padded.of_queries(asked),  # labelled ones come first
        labelled.relevant[: len(asked)],
        combination.weights(point.coordinates),
        combination.corners,
        prepared.queries,
        prepared.gallery,
        excluded_rows(prepared.gallery),
    )
    path = landscape.work / "recipes" / "best-missed.csv"
    paths["missed"] = write_misses(path, misses, labelled.query_ids, landscape.gallery_ids, labelled.private)
    return misses
