"""`tune`: from dumps and labels to a recipe, with figures that do not fool their reader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.messages import log
from competition.metrics import WHOLE_LISTS, figure_label
from competition.progress import Progress
from features.recipes.kept import data_identity, keep_recipe, readable
from features.recipes.recipe import Recipe
from tuning import study as studies
from tuning.best import best_point, certified, check_certifiable, other_figures
from tuning.certificate import Certificate
from tuning.claims import (
    affordable_folds,
    importances,
    near_best_share,
    showable_gain,
    trial_precisions,
    unseen_scores,
    validated_by,
)
from tuning.combination import Combination, excluded_rows
from tuning.evaluating import evaluated, figures
from tuning.labelled import Labelled, objective_of
from tuning.landscape import Choice, Landscape
from tuning.misses import Miss, find_misses, write_misses
from tuning.named_points import NamedPoint, evaluate_named, named_points
from tuning.region import barycentric, contains
from tuning.samplers import make_sampler, mixed
from tuning.storage import open_storage
from tuning.timing import Kind, kinds_text, measured_kinds
from tuning.validation import (
    Comparison,
    CrossValidated,
    bias_corrected,
    compare,
    cross_validate,
)


@dataclass
class Tuned:
    """All that `tune` found; `recipe` is the study's best, `untuned` equal weights of the first choices, or the recipe
    under study as it stands. comparison: on queries that did not choose; None where there are none, as with one group;
    bias_corrected: MAP@k on the public queries that choosing the best trial earns on those that did not choose."""

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

    folds: of the cross-validation, None for 5 where trials are cheap; certify_seconds: then search by branch and
    bound, over the recipe's choices or (certify_all) all of the study's; recipe: study this one instead of the
    configuration's choices (see `tuning.space.space_of`).
    """

    landscape = Landscape(configuration, recipe=recipe, progress=progress)
    log.info(
        f"candidates and what steps keep: {landscape.kept_files()[1] / 2**20:.1f} MiB now, at most "
        f"{landscape.cache_bytes / 2**20:.1f} MiB ([tuning] cache_gib); least recently used goes first"
    )
    settings, labelled = configuration.tuning, landscape.labelled
    if certify_seconds:
        check_certifiable(landscape)
    total = settings.trials if trials is None else trials
    seed = settings.seed if seed is None else seed
    kinds = measured_kinds(landscape)
    log.info(kinds_text(kinds, total))
    untuned, untuned_precisions = _untuned(landscape)
    log.info(showable_gain(landscape, untuned_precisions))

    storage = open_storage(settings.storage, landscape.work)
    name = f"{landscape.study_name()}-seed{seed}"
    study = studies.open_study(storage, name, make_sampler(settings.sampler, seed))
    before = len(studies.completed(study))
    mixed = other_figures(landscape, study)
    if mixed is not None:
        log.warning(f"WARNING: {mixed}")
    known = _recipe_point(landscape)

    def noted(choice: Choice, coordinates: np.ndarray) -> dict[str, object]:
        """What costs a ranking of the whole gallery is noted with the trial: bias correction asks for it again."""
        combination = landscape.combination(choice)
        if combination.scene is not None:
            return {}
        return {studies.PRECISIONS: combination.average_precisions(combination.weights(coordinates)).tolist()}

    with Progress(total=total, initial=min(before, total), unit="trial", desc="tune", shown=progress) as bar:
        best_so_far = max((trial.value for trial in studies.completed(study)), default=0.0)

        def evaluate(choice: dict[str, object], coordinates: np.ndarray) -> float:
            nonlocal best_so_far
            value = landscape.map_inside(choice, coordinates, labelled.public)
            best_so_far = max(best_so_far, value)
            label = figure_label(landscape.metric, landscape.top_k)
            bar.set_postfix_str(f"best {label} {best_so_far:.4f}", refresh=False)
            return value

        _run(landscape, study, evaluate, total, seed, known, noted=noted, finished=lambda _: bar.update())

    choice, coordinates, public = best_point(landscape, study)
    best, combination, tuned_precisions = _best(landscape, choice, coordinates, name, seed, total, None)
    public_mask = labelled.public
    unseen = bias_corrected(
        trial_precisions(landscape, study)[:, public_mask],
        labelled.groups[public_mask],
        seed=seed,
        weight=labelled.weight[public_mask],
    )
    corrected = None if unseen is None else float(np.average(unseen, weights=labelled.weight[public_mask]))
    comparison = _judge(best, unseen, tuned_precisions, untuned_precisions, labelled, corrected, None, None)
    earlier = {path.stem: readable(path) for path in (landscape.work / "recipes").glob("*.json")}
    _write(landscape, best, untuned, earlier)  # what follows takes long, and may be interrupted
    certificate = None
    if certify_seconds:
        certificate, choice, coordinates, public = certified(
            landscape, choice, coordinates, public, certify_seconds, certify_all, progress
        )
        best, combination, tuned_precisions = _best(
            landscape, choice, coordinates, name, seed, total, certificate
        )
        _judge(best, unseen, tuned_precisions, untuned_precisions, labelled, corrected, None, certificate)
        _write(landscape, best, untuned, earlier)
    weights = combination.weights(coordinates)
    named = _named(landscape, choice, combination)
    cross_validated = None
    if folds is None:
        folds = affordable_folds(landscape, combination, total * repeats)
    if folds >= 2 and len(np.unique(labelled.groups[labelled.public])) >= 2:
        cross_validated = _cross_validated(landscape, total, seed, folds, repeats, known, progress)
        unseen = cross_validated.out_of_fold.mean(axis=0)
    comparison = _judge(
        best,
        unseen,
        tuned_precisions,
        untuned_precisions,
        labelled,
        corrected,
        cross_validated,
        certificate,
    )
    paths = _write(landscape, best, untuned, earlier)
    misses = _misses(landscape, choice, combination, weights)
    if misses is not None:
        paths["missed"] = write_misses(
            landscape.work / "recipes" / "best-missed.csv",
            misses,
            labelled.query_ids,
            landscape.gallery_ids,
            labelled.private,
        )
    return Tuned(
        best,
        untuned,
        combination,
        coordinates,
        labelled,
        len(studies.completed(study)),
        len(studies.completed(study)) - before,
        named,
        comparison,
        corrected,
        cross_validated,
        certificate,
        importances(study),
        near_best_share(combination, tuned_precisions, labelled),
        paths,
        kinds,
        misses,
        mixed,
        landscape.kept_files(),
    )


def _best(
    landscape: Landscape,
    choice: Choice,
    coordinates: np.ndarray,
    study: str,
    seed: int,
    trials: int,
    certificate: Certificate | None,
) -> tuple[Recipe, Combination, np.ndarray]:
    """The recipe of a point of the study, its combination and its average precisions."""
    combination = landscape.combination(choice)
    values = combination.average_precisions(combination.weights(coordinates))
    weights = landscape.recipe_weights(choice, coordinates)
    recipe = Recipe(
        "best",
        landscape.space.components_of(choice),
        tuple(map(float, weights)),
        dict(choice),
        figures(values, landscape.labelled),
        _provenance(landscape, choice, combination, study, seed, trials, certificate),
        tuple(landscape.recipe_steps(choice, weights)),
    )
    return recipe, combination, values


def _write(
    landscape: Landscape, best: Recipe, untuned: Recipe, earlier: dict[str, Recipe | None]
) -> dict[str, Path]:
    """Write the recipes of the study, what stood there before kept where it is better; their files by name."""
    made = {"recipe": best, "untuned": untuned}
    if landscape.space.recipe is not None:
        own = f"{landscape.space.recipe.name.removesuffix('-tuned')}-tuned"
        made["tuned"] = replace(best, name=own)
    folder = landscape.work / "recipes"
    before = {  # an untuned recipe that was under study is there under its own name
        name: recipe
        for name, recipe in earlier.items()
        if recipe is not None and not (name == untuned.name and "studied" in recipe.provenance)
    }
    return {
        key: keep_recipe(folder / f"{recipe.name}.json", recipe, before.get(recipe.name))
        for key, recipe in made.items()
    }


def _judge(
    best: Recipe,
    unseen: np.ndarray | None,
    tuned: np.ndarray,
    untuned: np.ndarray,
    labelled: Labelled,
    corrected: float | None,
    cross_validated: CrossValidated | None,
    certificate: Certificate | None,
) -> Comparison | None:
    """Note in the recipe what it earns on queries that did not choose, and return its gain over the untuned one there."""
    if unseen is None:
        return None
    public = labelled.public
    comparison = compare(unseen, untuned[public], labelled.groups[public], weight=labelled.weight[public])
    best.scores.update(unseen_scores(unseen, tuned, labelled, corrected, cross_validated))
    best.provenance["validated by"] = validated_by(labelled, cross_validated, certificate)
    best.provenance.pop("within noise of", None)
    if comparison.within_noise:
        best.provenance["within noise of"] = "untuned"
    return comparison


def _run(
    landscape: Landscape,
    study,
    evaluate: studies.Evaluate,
    total: int,
    seed: int,
    known: list[dict[str, object]],
    *,
    noted=None,
    finished=None,
) -> None:
    """Run the trials of the whole study, or of one inside a fold, by the same procedure."""
    space = landscape.space
    points = studies.first_points(space.choice_lists, space.n_vertices, space.chains_alone())
    named = studies.named_places(study, chain(known, points), max(1, total // 3))
    sampler = landscape.configuration.tuning.sampler
    studies.run_trials(
        study,
        evaluate,
        space.choice_lists,
        space.n_vertices,
        total,
        lambda draw: make_sampler(sampler, seed, draw),
        named,
        noted=noted,
        finished=finished,
    )


def _recipe_point(landscape: Landscape) -> list[dict[str, object]]:
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


def _named(landscape: Landscape, choice: Choice, combination: Combination) -> list[NamedPoint]:
    """Points worth knowing under the best's choices, by full ranking."""
    if not landscape.space.steps and landscape.metric != WHOLE_LISTS:
        return evaluate_named(
            combination,
            *landscape.dumps(choice),
            landscape.labelled.relevant,
            landscape.top_k,
            landscape.metric,
        )
    return named_points(
        combination, lambda weights: landscape.full_precisions(choice, weights, combination.corners)
    )


def _misses(
    landscape: Landscape, choice: Choice, combination: Combination, weights: np.ndarray
) -> list[Miss] | None:
    """The correct images the best recipe misses; None where there are no candidates to explain them by."""
    if combination.scene is None:
        return None
    prepared, asked = landscape.prepared(choice), np.flatnonzero(landscape.labelled.reported)
    return find_misses(
        combination.scene.of_queries(asked),  # labelled ones come first
        landscape.labelled.relevant[: len(asked)],
        weights,
        combination.corners,
        prepared.queries,
        prepared.gallery,
        excluded_rows(prepared.gallery),
    )


def _cross_validated(
    landscape: Landscape,
    total: int,
    seed: int,
    folds: int,
    repeats: int,
    known: list[dict[str, object]],
    progress: bool,
) -> CrossValidated:
    """The same procedure inside each fold of the public queries, scored outside it."""
    import optuna

    public = np.flatnonzero(landscape.labelled.public)
    groups = landscape.labelled.groups[public]
    folds = min(folds, len(np.unique(groups)))
    with Progress(total=folds * repeats, unit="fold", desc="cross-validate", shown=progress) as bar:

        def tune_inside(inside: np.ndarray, fold_seed: int) -> np.ndarray:
            mask = np.zeros(len(landscape.labelled.groups), dtype=bool)
            mask[public[inside]] = True
            storage = optuna.storages.InMemoryStorage()
            study = studies.open_study(storage, "fold", make_sampler("random", seed))

            def evaluate(choice: dict[str, object], point: np.ndarray) -> float:
                return landscape.map_inside(choice, point, mask)

            _run(landscape, study, evaluate, total, mixed(seed, fold_seed + 1), known)
            choice, coordinates = studies.point_of(study.best_trial.params, landscape.choice_lists)
            combination = landscape.combination(choice)
            bar.update()
            return combination.average_precisions(combination.weights(coordinates))[public]

        weight = landscape.labelled.weight[public]
        return cross_validate(tune_inside, groups, n_folds=folds, repeats=repeats, seed=seed, weight=weight)


def _untuned(landscape: Landscape) -> tuple[Recipe, np.ndarray]:
    """What a team without labels would submit: the recipe under study as it stands, or equal weights of the first
    choices and the first values of the steps."""
    choice, recipe = landscape.space.default, landscape.space.recipe
    components = landscape.space.components_of(choice)
    weights = np.full(len(components), 1.0 / len(components)) if recipe is None else recipe.weight_array
    values = landscape.full_precisions(choice, weights, landscape.combination(choice).corners)
    recipe = Recipe(
        "untuned",
        components,
        tuple(map(float, weights)),
        dict(choice),
        {},
        {"competition": landscape.configuration.competition.name, **_studied(landscape)},
        landscape.recipe_steps(choice, weights),
    )
    return evaluated(landscape.configuration, recipe, values, landscape.labelled), values


def _studied(landscape: Landscape) -> dict[str, str]:
    return {} if landscape.space.recipe is None else {"studied": landscape.space.recipe.name}


def _provenance(
    landscape: Landscape,
    choice: Choice,
    combination: Combination,
    study: str,
    seed: int,
    trials: int,
    certificate: Certificate | None,
) -> dict[str, object]:
    settings = landscape.configuration.tuning
    found: dict[str, object] = {
        "competition": landscape.configuration.competition.name,
        "data": data_identity(landscape.configuration, landscape.space.components_of(choice)),
        "convention": "min(m,k)",
        "region": settings.region,
        "sums": list(map(float, combination.sums)),
        "study": study,
        "seed": seed,
        "trials": trials,
        "sampler": settings.sampler,
        "private share": settings.private,
        "objective": objective_of(landscape.configuration),
    }
    found |= _studied(landscape)
    if certificate is not None:
        found["certified bound"] = certificate.bound
    return found
