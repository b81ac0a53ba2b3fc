"""`tune`: from dumps and labels to a recipe, with figures that do not fool their reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pandas

from competition.configuration import Configuration
from competition.messages import log
from competition.progress import Progress
from features.recipes.kept import data_identity, keep_recipe, readable
from features.recipes.recipe import Recipe
from tuning import study as studies
from tuning.best import best_point, certified, check_certifiable, other_figures
from tuning.described import figure_of, study_attributes, study_name, trial_attributes
from tuning.evaluating import evaluated, mean_figures
from tuning.forecast import affordable_folds, cost, kinds_of, showable_gain
from tuning.landscape import Landscape
from tuning.misses import find_misses, write_misses
from tuning.region import barycentric, contains
from tuning.storage import open_storage
from tuning.tuned import Tuned, cross_validated, judge, without_luck

NO_FOLDS = "no cross-validation: each trial ranks the whole gallery here, and folds would repeat the study: --folds 5 does it"


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
) -> Tuned:
    """Run the study until it holds `trials` in all, validate it, and write the recipe of its best point.

    folds: of the cross-validation, None for 5 where trials are cheap; certify_seconds: then search by branch
    and bound, over the recipe's choices or (certify_all) all of the study's; recipe: study this one instead
    of the configuration's choices (see `tuning.space.space_of`).
    """
    landscape = Landscape(configuration, recipe=recipe)
    if certify_seconds:
        check_certifiable(landscape)
    settings, known = configuration.tuning, tuple(_recipe_point(landscape))
    trials = settings.trials if trials is None else trials
    seed = settings.seed if seed is None else seed
    plan = studies.TrialPlan(landscape.space, trials, seed, settings.sampler, known)
    study = _open(landscape, plan)
    before = len(studies.completed(study))
    kinds = kinds_of(landscape)
    if folds is None:
        folds = affordable_folds(landscape, kinds, plan.total * repeats)
        if folds == 0:
            log.info(NO_FOLDS)
    untuned, untuned_values = _untuned(landscape)
    log.info(
        f"candidates and what steps keep: {landscape.kept_files()[1] / 2**20:.1f} MiB now, at most "
        f"{landscape.cache_bytes / 2**20:.1f} MiB ([tuning] cache_gib); least recently used goes first"
    )
    to_come = cost(study, plan, kinds, folds * repeats)
    for line in filter(None, [*map(str, kinds), to_come, showable_gain(landscape, untuned_values)]):
        log.info(line)
    mixed = other_figures(landscape, study)
    if mixed is not None:
        log.warning(f"WARNING: {mixed}")
    _run(landscape, study, plan)

    new, point = len(studies.completed(study)) - before, best_point(landscape, study)
    lucky = without_luck(landscape, study, plan.seed)
    found = kinds, new, untuned, untuned_values, mixed, point, lucky, _earlier(landscape)
    tuned = Tuned(landscape, study, plan, *found)
    _write(tuned)  # what follows takes long, and may be interrupted
    if certify_seconds:
        tuned.certificate, tuned.point = certified(landscape, tuned.point, certify_seconds, certify_all)
        _write(tuned)
    if folds >= 2 and tuned.lucky is not None:
        tuned.cross_validated = cross_validated(landscape, plan, folds, repeats)
        study.set_user_attr(studies.CROSS_VALIDATED, tuned.cross_validated.figures())
        _write(tuned)
    tuned.misses = _misses(tuned)
    return tuned


def _recipe_point(landscape: Landscape) -> list[studies.Parameters]:
    """The parameters of the recipe under study itself, where the region holds its weights."""
    recipe, default = landscape.space.recipe, landscape.space.default
    if recipe is None:
        return []
    combination = landscape.combination(default)
    if len(combination.components) < len(recipe.weights):  # joined: all points are one
        return []
    coordinates = barycentric(recipe.weight_array, combination.sums, combination.chains)
    if not contains(recipe.weight_array, combination.sums, combination.chains):
        log.warning(
            f"the weights of {recipe.name} lie outside the region [tuning] region = "
            f"{landscape.configuration.tuning.region!r}: it is scored beside the study, which cannot try it"
        )
        return []
    return [studies.parameters(default, np.exp(-np.maximum(coordinates, 0.0)))]


def _open(landscape: Landscape, plan: studies.TrialPlan) -> optuna.Study:
    """Open the study, which says what it is of."""
    storage = open_storage(landscape.configuration.tuning.storage, landscape.work)
    study = studies.open_study(storage, f"{study_name(landscape)}-seed{plan.seed}")
    for key, value in {**study_attributes(landscape), "trials": plan.total}.items():
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    return study


def _untuned(landscape: Landscape) -> tuple[Recipe, np.ndarray]:
    """What a team without labels would submit, and its AP@k (Q,).

    It is the recipe under study as it is, or the first choices, equal weights and the first values of the
    steps.
    """
    choice, recipe = landscape.space.default, landscape.space.recipe
    n = landscape.space.n_vertices(choice)
    weights = np.full(n, 1.0 / n) if recipe is None else recipe.weight_array
    values = landscape.full_precisions(choice, weights, landscape.combination(choice).corners)
    provenance = {"competition": landscape.configuration.competition.name, **_studied(landscape)}
    made = landscape.recipe("untuned", choice, weights, {}, provenance)
    return evaluated(landscape.configuration, made, values, landscape.labelled), values


def _run(landscape: Landscape, study: optuna.Study, plan: studies.TrialPlan) -> None:
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
        bar.set_postfix_str(f"best {figure_of(landscape)} {study.best_value:.4f}", refresh=False)
        bar.update()

    there = min(len(studies.completed(study)), plan.total)
    with Progress(total=plan.total, initial=there, unit="trial", desc="tune") as bar:
        studies.run_trials(study, plan, evaluate, noted=noted, finished=finished)


def _earlier(landscape: Landscape) -> dict[str, Recipe]:
    """The recipes that are kept already, by name, but for one under study that was written as untuned."""
    found = {}
    for path in (landscape.work / "recipes").glob("*.json"):
        recipe = readable(path)
        if recipe is not None and not (path.stem == "untuned" and "studied" in recipe.provenance):
            found[path.stem] = recipe
    return found


def _write(tuned: Tuned) -> None:
    """Write the recipe of the best point with what it is worth, and the untuned one; better earlier ones are kept."""
    landscape, point = tuned.landscape, tuned.point
    weights = landscape.recipe_weights(point.choice, point.coordinates)
    figures = mean_figures(tuned.values, tuned.labelled)
    best = landscape.recipe("best", point.choice, weights, figures, _provenance(tuned))
    tuned.comparison, tuned.recipe = judge(best, tuned), best
    made = {"recipe": best, "untuned": tuned.untuned}
    if landscape.space.recipe is not None:
        made["tuned"] = replace(best, name=f"{landscape.space.recipe.name.removesuffix('-tuned')}-tuned")
    for key, recipe in made.items():
        path = landscape.work / "recipes" / f"{recipe.name}.json"
        tuned.paths[key] = keep_recipe(path, recipe, tuned.earlier.get(recipe.name))


def _provenance(tuned: Tuned) -> dict[str, object]:
    landscape, configuration = tuned.landscape, tuned.landscape.configuration
    settings = configuration.tuning
    return {
        "competition": configuration.competition.name,
        "data": data_identity(configuration, landscape.space.components_of(tuned.point.choice)),
        "convention": "min(m,k)",
        "region": settings.region,
        "sums": list(map(float, tuned.combination.sums)),
        "study": tuned.study.study_name,
        "seed": tuned.plan.seed,
        "trials": tuned.plan.total,
        "sampler": settings.sampler,
        "private share": settings.private,
        "objective": configuration.objective,
        **_studied(landscape),
        **({} if tuned.certificate is None else {"certified bound": tuned.certificate.bound}),
    }


def _studied(landscape: Landscape) -> dict[str, str]:
    return {} if landscape.space.recipe is None else {"studied": landscape.space.recipe.name}


def _misses(tuned: Tuned) -> pandas.DataFrame | None:
    """Write the correct images that the best recipe misses; None where there are no candidates to explain them by."""
    landscape, combination, labelled = tuned.landscape, tuned.combination, tuned.labelled
    if combination.padded is None:
        return None
    prepared = landscape.prepared(tuned.point.choice)
    asked = np.flatnonzero(labelled.reported)  # they come first
    padded, relevant = combination.padded.of_queries(asked), labelled.relevant[: len(asked)]
    at = combination.weights(tuned.point.coordinates), combination.corners
    misses = find_misses(padded, relevant, *at, prepared.queries, prepared.gallery)
    path, ids = landscape.work / "recipes" / "best-missed.csv", (labelled.query_ids, landscape.gallery_ids)
    tuned.paths["missed"] = write_misses(path, misses, *ids, labelled.private)
    return misses
