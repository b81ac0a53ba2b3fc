"""`tune`: from dumps and labels to a recipe, with figures that do not fool their reader."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from competition.configuration import Configuration
from competition.errors import Top7Error
from features.components import components_of
from features.recipe import Recipe, write_recipe
from tuning import study as studies
from tuning.certificate import Certificate, certify
from tuning.combination import Combination
from tuning.labelled import Labelled
from tuning.landscape import Landscape
from tuning.named_points import NamedPoint, evaluate_named, full_precisions
from tuning.region import random_coordinates
from tuning.robust import largest_ball
from tuning.samplers import make_sampler
from tuning.validation import Comparison, CrossValidated, compare, cross_validate, resampled_means

Choice = Mapping[str, object]
TIE = 1e-12


@dataclass
class Tuned:
    """All that `tune` found; `recipe` is the study's best, `untuned` equal weights of the first choices."""

    recipe: Recipe
    untuned: Recipe
    combination: Combination
    coordinates: np.ndarray
    labelled: Labelled
    trials: int
    new_trials: int
    named: list[NamedPoint]
    comparison: Comparison
    cross_validated: CrossValidated | None = None
    certificate: Certificate | None = None
    importances: dict[str, float] = field(default_factory=dict)
    near_best_share: float = 0.0
    paths: dict[str, Path] = field(default_factory=dict)


def tune(configuration: Configuration, *, trials: int | None = None, seed: int | None = None, folds: int | None = None,
         repeats: int = 2, certify_seconds: float | None = None, certify_all: bool = False,
         fixed: Choice | None = None, progress: bool = True) -> Tuned:
    """Run the study until it holds `trials` in all, validate it, and write the recipe of its best point.

    folds: of the cross-validation, None for 5 where trials are cheap; certify_seconds: then search by branch and
    bound, over the recipe's choices or (certify_all) all of the study's; fixed: the one combination to study.
    """
    from tqdm import tqdm

    landscape = Landscape(configuration, fixed=fixed, progress=progress)
    settings, labelled = configuration.tuning, landscape.labelled
    total = settings.trials if trials is None else trials
    seed = settings.seed if seed is None else seed
    work = Path(configuration.competition.work)
    default = {name: values[0] for name, values in landscape.choice_lists.items()}
    n_vertices = len(landscape.combination(default).corners)

    storage = studies.open_storage(settings.storage, work)
    name = f"{landscape.study_name()}-seed{seed}"
    study = studies.open_study(storage, name, make_sampler(settings.sampler, seed, 0))
    before = len(studies.completed(study))
    study.sampler = make_sampler(settings.sampler, seed, len(study.get_trials(deepcopy=False)) if before else 0)
    studies.enqueue_first_points(study, landscape.choice_lists, n_vertices, max(1, total // 3), landscape.chains_alone())
    with tqdm(total=total, initial=min(before, total), unit="trial", desc="tune", disable=None if progress else True) as bar:
        best_so_far = max((trial.value for trial in studies.completed(study)), default=0.0)

        def evaluate(choice: dict[str, object], coordinates: np.ndarray) -> float:
            nonlocal best_so_far
            value = landscape.map_inside(choice, coordinates, labelled.public)
            best_so_far = max(best_so_far, value)
            bar.set_postfix_str(f"best MAP@{configuration.competition.top_k} {best_so_far:.4f}", refresh=False)
            return value

        studies.run_trials(study, evaluate, landscape.choice_lists, n_vertices, total, finished=lambda _: bar.update())

    choice, coordinates, public = best_point(landscape, study)
    certificate = None
    if certify_seconds:
        certificate, choice, coordinates, public = _certified(landscape, choice, coordinates, public, certify_seconds,
                                                              certify_all, progress)
    combination = landscape.combination(choice)
    weights = coordinates @ combination.corners
    tuned_precisions = combination.average_precisions(weights)
    recipe = Recipe("best", combination.components, tuple(map(float, weights)), dict(choice),
                    _scores(tuned_precisions, labelled), _provenance(landscape, combination, name, seed, total,
                                                            certificate))
    named = evaluate_named(combination, *landscape.dumps(choice), labelled.relevant, configuration.competition.top_k)
    untuned, untuned_precisions = _untuned(landscape, default)
    cross_validated = None
    compared = tuned_precisions
    if folds is None:
        folds = _affordable_folds(combination)
    if folds >= 2 and len(np.unique(labelled.groups[labelled.public])) >= 2:
        cross_validated = _cross_validated(landscape, total, seed, n_vertices, folds, repeats, progress)
        compared = np.full(len(labelled.groups), np.nan)
        compared[labelled.public] = cross_validated.out_of_fold.mean(axis=0)
        recipe.scores["cross-validated"] = cross_validated.mean
    public_mask = labelled.public
    comparison = compare(compared[public_mask], untuned_precisions[public_mask], labelled.groups[public_mask])
    paths = {"recipe": write_recipe(work / "recipes" / "best.json", recipe),
             "untuned": write_recipe(work / "recipes" / "untuned.json", untuned)}
    return Tuned(recipe, untuned, combination, coordinates, labelled, len(studies.completed(study)),
                 len(studies.completed(study)) - before, named, comparison, cross_validated, certificate,
                 _importances(study), _near_best_share(combination, tuned_precisions, labelled), paths)


def _affordable_folds(combination: Combination) -> int:
    """5, or 0 (said aloud) where every trial streams the gallery and folds would repeat the study ten times so."""
    if combination.scene is not None:
        return 5
    print("no cross-validation: each trial streams the whole gallery here (the region prunes badly); --folds 5 does it",
          file=sys.stderr)
    return 0


def best_point(landscape: Landscape, study) -> tuple[dict[str, object], np.ndarray, float]:
    """Return (choice, barycentric coordinates, public MAP) of the study's best; of equals the most robust."""
    finished = studies.completed(study)
    if not finished:
        raise Top7Error("the study holds no finished trial: give --trials 1 or more")
    best = max(trial.value for trial in finished)
    ties = [trial for trial in finished if trial.value >= best - TIE]
    balls = []
    for trial in ties[:20]:
        choice, coordinates = studies.point_of(trial.params, landscape.choice_lists)
        balls.append((choice, *_centred(landscape, choice, coordinates, best)))
    choice, coordinates, _ = max(balls, key=lambda ball: ball[2])
    return choice, coordinates, best


def _centred(landscape: Landscape, choice: Choice, coordinates: np.ndarray, value: float) -> tuple[np.ndarray, float]:
    """Move to the centre of the best cell where that keeps the figure; returns (coordinates, radius)."""
    combination = landscape.combination(choice)
    if combination.scene is None:
        return coordinates, 0.0
    ball = largest_ball(combination.scene.of_queries(landscape.labelled.public), coordinates, combination.corners)
    if landscape.map_inside(choice, ball.centre, landscape.labelled.public) >= value - TIE:
        return ball.centre, ball.radius
    return coordinates, 0.0


def _certified(landscape: Landscape, choice: Choice, coordinates: np.ndarray, public: float, seconds: float,
               every_choice: bool, progress: bool):
    """Branch and bound over the recipe's region, or those of all choices; the better of study and certificate."""
    from tqdm import tqdm

    tried = [dict(choice)]
    if every_choice:
        tried += [other for other in landscape.all_choices() if other != dict(choice)]
    made = [landscape.combination(other) for other in tried]
    if any(combination.scene is None for combination in made):
        raise Top7Error("--certify needs lossless candidates, and the region prunes badly here: use region = \"similarity\"")
    scenes = [combination.scene.of_queries(landscape.labelled.public) for combination in made]
    with tqdm(total=round(seconds), unit="s", desc="certify", disable=None if progress else True) as bar:
        begun = time.perf_counter()

        def watch(best: float, bound: float) -> None:
            bar.n = round(time.perf_counter() - begun, 1)
            bar.set_postfix_str(f"best {best:.4f} bound {bound:.4f}")

        certificate = certify(scenes, [combination.corners for combination in made], seconds,
                              known=[(0, coordinates)], watch=watch)
    if certificate.best > public + TIE:
        choice, public = tried[certificate.combination], certificate.best
        coordinates, _ = _centred(landscape, choice, certificate.coordinates, public)
    return certificate, choice, coordinates, public


def _cross_validated(landscape: Landscape, total: int, seed: int, n_vertices: int, folds: int, repeats: int,
                     progress: bool) -> CrossValidated:
    """The same procedure inside each fold of the public queries, scored outside it."""
    import optuna
    from tqdm import tqdm

    public = np.flatnonzero(landscape.labelled.public)
    groups = landscape.labelled.groups[public]
    folds = min(folds, len(np.unique(groups)))
    with tqdm(total=folds * repeats, unit="fold", desc="cross-validate", disable=None if progress else True) as bar:
        def tune_inside(inside: np.ndarray, fold_seed: int) -> np.ndarray:
            mask = np.zeros(len(landscape.labelled.groups), dtype=bool)
            mask[public[inside]] = True
            storage = optuna.storages.InMemoryStorage()
            sampler = make_sampler(landscape.configuration.tuning.sampler, seed, fold_seed + 1)
            study = studies.open_study(storage, "fold", sampler)
            studies.enqueue_first_points(study, landscape.choice_lists, n_vertices, max(1, total // 3), landscape.chains_alone())
            studies.run_trials(study, lambda choice, point: landscape.map_inside(choice, point, mask),
                               landscape.choice_lists, n_vertices, total)
            choice, coordinates = studies.point_of(study.best_trial.params, landscape.choice_lists)
            combination = landscape.combination(choice)
            bar.update()
            return combination.average_precisions(coordinates @ combination.corners)[public]

        return cross_validate(tune_inside, groups, n_folds=folds, repeats=repeats, seed=seed)


def _untuned(landscape: Landscape, choice: Choice) -> tuple[Recipe, np.ndarray]:
    """Equal weights of the first choices: what a team without labels would submit."""
    components = components_of(landscape.configuration, choice)
    weights = np.full(len(components), 1.0 / len(components))
    queries, gallery = landscape.dumps(choice)
    values = full_precisions(queries, gallery, weights, landscape.labelled.relevant,
                             landscape.configuration.competition.top_k)
    return Recipe("untuned", components, tuple(map(float, weights)), dict(choice), _scores(values, landscape.labelled),
                  {"competition": landscape.configuration.competition.name}), values


def _scores(values: np.ndarray, labelled: Labelled) -> dict[str, float]:
    """MAP@k (Kaggle's convention) on the public, the private and all labelled queries."""
    found = {"public": float(values[labelled.public].mean()), "all": float(values.mean())}
    if labelled.private.any():
        found["private"] = float(values[labelled.private].mean())
    return found


def _provenance(landscape: Landscape, combination: Combination, study: str, seed: int, trials: int,
                certificate: Certificate | None) -> dict[str, object]:
    settings = landscape.configuration.tuning
    found: dict[str, object] = {
        "competition": landscape.configuration.competition.name, "convention": "min(m,k)", "region": settings.region,
        "sums": list(map(float, combination.sums)), "study": study, "seed": seed, "trials": trials,
        "sampler": settings.sampler, "private share": settings.private,
    }
    if certificate is not None:
        found["certified bound"] = certificate.bound
    return found


def _importances(study) -> dict[str, float]:
    """How much of the figure's variance each parameter explains (fANOVA); empty where all trials agree."""
    import optuna

    finished = studies.completed(study)
    if len(finished) < 10 or len({trial.value for trial in finished}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {name: float(value) for name, value in
            optuna.importance.get_param_importances(study, evaluator=evaluator).items()}


def _near_best_share(combination: Combination, values: np.ndarray, labelled: Labelled, n_points: int = 500) -> float:
    """Share of the region, sampled uniformly, within one standard error (over groups) of the best's public MAP."""
    public = labelled.public
    error = float(resampled_means(values[public], labelled.groups[public], 2000, 0).std())
    n_points = n_points if combination.scene is not None else 10  # each streams the gallery there
    points = random_coordinates(n_points, len(combination.corners), np.random.default_rng(0)) @ combination.corners
    threshold = values[public].mean() - error
    return float(np.mean([combination.average_precisions(point)[public].mean() >= threshold for point in points]))
