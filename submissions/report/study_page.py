"""The study page: the weight maps, and Optuna's own plots under names a person knows.

A weight map is MAP@k over all weights of three components, with the region under each reading and the trials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import optuna
from optuna import visualization

from competition.errors import Top7Error
from competition.progress import Progress
from features.components import Component, short_names
from features.ranking.steps import step_of
from features.recipes.recipe import Recipe
from submissions.report.ranked import Scene
from submissions.submitting import fold_figures, study_of
from tuning.combination import Combination, open_combination
from tuning.described import choice_name, share_names
from tuning.evaluating import LARGE_GALLERY
from tuning.region import contains, layer_sums, region_chains, vertices
from tuning.study import COORDINATE, completed, point_of
from tuning.tuned import near_best_share

SLICED = 6  # parameters that Optuna's slices show
ENOUGH = 10  # trials that importances need
STEPS = 24  # points on a side of a map's triangle
HEAVIEST = 7  # components whose triples are shown, 35 of them
LEAST_SHARE = 0.1  # of a recipe's weight that a slice must have to share out


def study_page(scene: Scene) -> dict[str, object] | None:
    """Return what the page shows and its charts; None without labels or a recipe of a study."""
    recipe = next((each for each in scene.recipes if each.name == "best" and each.choice), None)
    if scene.labelled is None or recipe is None or recipe.name not in scene.ranked:
        return None
    study = study_of(scene.configuration, recipe)
    trials = () if study is None else completed(study)
    components = recipe.components
    points = [trial_weights(recipe, trial) for trial in trials]
    tried = np.array([each for each in points if each is not None]).reshape(-1, len(components))
    maps = weight_maps(scene, recipe, tried) if len(components) >= 3 else {}
    plots = optuna_charts(trials, components, scene.metric) if len(trials) > 1 else {}
    listed = [
        {"id": f"map-{number}", "title": title, "said": chart.pop("said")}
        for number, (title, chart) in enumerate(maps.items())
    ]
    return {
        "recipe": recipe,
        "names": short_names(components),
        "trials": len(trials),
        "maps": listed,
        "plots": list(plots),
        "charts": {**{each["id"]: maps[each["title"]] for each in listed}, **plots},
        "bound": recipe.provenance.get("certified bound"),
        "region": recipe.provenance.get("region"),
        "near": None if recipe.steps else _near(scene, recipe),  # with steps the candidates are others
        "folds": fold_figures(scene.configuration, recipe),
    }


def _near(scene: Scene, recipe: Recipe) -> float | None:
    """The share of the region within one standard error of the recipe."""
    made = combination(scene, recipe.components, str(recipe.provenance.get("region", "similarity")))
    if made.padded is None:
        return None
    return near_best_share(made, made.average_precisions(recipe.weight_array), scene.judged)


def trial_weights(recipe: Recipe, trial: optuna.trial.FrozenTrial) -> np.ndarray | None:
    """A trial's weights in the region as the recipe's choices make it; None where a step joined the components."""
    coordinates, sums = point_of(trial.params)[1], np.array(recipe.provenance.get("sums", ()))
    if not len(coordinates) == len(sums) == len(recipe.components):
        return None
    centred = any(step_of(step).centres for step in recipe.steps)  # sums of centred rows order nothing
    region = "simplex" if centred else str(recipe.provenance["region"])
    chains = region_chains([part.chain for part in recipe.components], region)
    return coordinates @ vertices(sums, chains)


def optuna_charts(
    trials: Sequence[optuna.trial.FrozenTrial], components: Sequence[Component], metric: str
) -> dict[str, dict]:
    """Return Optuna's plots of the trials, their parameters renamed."""
    names = share_names(components)
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        _, coordinates = point_of(trial.params)
        chosen = [name for name in trial.params if not COORDINATE.fullmatch(name)]
        choices = {choice_name(old, components): old for old in chosen}
        shares = names
        if len(coordinates) != len(names):
            shares = [f"share {number}" for number in range(len(coordinates))]
        params = {new: trial.params[old] for new, old in choices.items()}
        kinds = {new: trial.distributions[old] for new, old in choices.items()}
        params |= dict(zip(shares, coordinates.tolist()))
        kinds |= {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in shares}
        study.add_trial(optuna.trial.create_trial(value=trial.value, params=params, distributions=kinds))
    found = {"history": visualization.plot_optimization_history(study, target_name=metric)}
    if len(trials) >= ENOUGH and len({trial.value for trial in trials}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
        sliced = list(importances)[:SLICED]
        plot = visualization.plot_param_importances
        found["importances"] = plot(study, evaluator=evaluator, target_name=metric)
        found["slices"] = visualization.plot_slice(study, params=sliced, target_name=metric)
    return {name: _chart(figure) for name, figure in found.items()}


def _chart(figure) -> dict:
    """A figure of Optuna's as plain values, without its template, title and quotes of words: the page has its own."""
    chart = json.loads(re.sub(r"\"'([^'\"]*)'\"", r'"\1"', figure.to_json()))
    layout = {key: value for key, value in chart["layout"].items() if key not in ("template", "title")}
    return {"data": chart["data"], "layout": layout}


def weight_maps(scene: Scene, recipe: Recipe, tried: np.ndarray) -> dict[str, dict]:
    """Return charts by title. tried: (trials, L) weights of the study's trials, in the order of the recipe's components.

    Each map is exact: its candidates are those of the whole triangle. A slice shares out what the recipe gives the three,
    and shows the region alone, whose candidates the study has.
    """
    weights, found = recipe.weight_array, {}
    order = np.argsort(-weights, kind="stable")[:HEAVIEST]
    triples = [sorted(triple) for triple in combinations(order.tolist(), 3)]
    if len(scene.gallery_ids) > LARGE_GALLERY:
        triples = triples[:1]  # each takes a pass over the gallery
    for triple in Progress(triples, desc="weight maps", unit="map"):
        parts = [recipe.components[number] for number in triple]
        made = combination(scene, parts, "simplex")
        if made.padded is not None:
            found[", ".join(short_names(parts))] = whole_map(scene, made, weights[triple], tried[:, triple])
    if len(weights) > 3 and not recipe.steps:
        whole = combination(scene, recipe.components, str(recipe.provenance.get("region", "similarity")))
        for triple in triples if whole.padded is not None else ():
            if weights[triple].sum() >= LEAST_SHARE:
                names = short_names([recipe.components[number] for number in triple])
                title = f"slice through the recipe: {', '.join(names)}"
                found[title] = _slice(scene, whole, triple, names, weights)
    return found


def combination(scene: Scene, parts: Sequence[Component], region: str) -> Combination:
    """Return the combination of some components in a region; what the study has made of it is read."""
    return open_combination(scene.configuration, parts, scene.judged, region, scene.work / "candidates")


def _grid() -> np.ndarray:
    """The points of the triangle, (n, 3), each >= 0 and of sum 1."""
    counts = [(i, j, STEPS - i - j) for i in range(STEPS + 1) for j in range(STEPS + 1 - i)]
    return np.array(counts, dtype=np.float64) / STEPS


def _figures(scene: Scene, made: Combination, points: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """MAP@k on the public queries under each of some weights."""
    return np.array([made.average_precisions(point)[scene.judged.public].mean() for point in points])


def whole_map(scene: Scene, made: Combination, chosen: np.ndarray, tried: np.ndarray) -> dict:
    """Return the map of three components; chosen: the recipe's weights of them, tried: the trials'."""
    names, points, regions = short_names(made.components), _grid(), {}
    values = _figures(scene, made, points)
    for reading in ("similarity", "distance"):
        sums = layer_sums(made.mean_similarity, reading)
        try:
            corners = vertices(sums, region_chains([part.chain for part in made.components], reading))
        except Top7Error:
            continue  # this reading orders nothing here
        regions[reading] = corners[[0, 1, 2, 0]]
    share = tried.sum(axis=1)
    inside = tried[share > 0.02] / share[share > 0.02, None]
    equal = points[values == values.max()]
    best = equal[np.argmin(((equal - equal.mean(axis=0)) ** 2).sum(axis=1))]  # the one in the middle
    at = ", ".join(f"{name} {weight:.2f}" for weight, name in zip(best, names))
    said = f"best of the map: {values.max():.4f}, at {at}"
    return _map(scene, names, points, values, chosen, said, regions, inside)


def _slice(
    scene: Scene, whole: Combination, triple: list[int], names: Sequence[str], weights: np.ndarray
) -> dict:
    share, points = weights[triple].sum(), _grid()
    at = np.tile(weights, (len(points), 1))
    at[:, triple] = share * points
    inside = [contains(each, whole.sums, whole.chains) for each in at]
    said = f"the three share {share:.0%} of the weight; the others keep theirs; empty: outside the region"
    return _map(scene, names, points[inside], _figures(scene, whole, at[inside]), weights[triple], said)


def _map(
    scene: Scene,
    names: Sequence[str],
    points: np.ndarray,
    values: np.ndarray,
    chosen: np.ndarray,
    said: str,
    regions: Mapping[str, np.ndarray] | None = None,
    tried: np.ndarray | None = None,
) -> dict:
    """What charts.js draws: the figures of points (n, 3), outlines of regions, trials (m, 3), the recipe's share."""
    star = [chosen / chosen.sum()] if chosen.sum() > 0 else []
    spots = {"points": points, "star": star, "tried": [] if tried is None else tried, **(regions or {})}
    lists = {name: np.round(rows, 5).tolist() for name, rows in spots.items()}
    told = {"names": names, "metric": scene.metric, "steps": STEPS, "values": values.tolist(), "said": said}
    return {**told, **lists}
