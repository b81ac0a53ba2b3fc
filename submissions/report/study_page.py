"""The study page: the weight map, and Optuna's own plots under names a person knows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import optuna

from features.components import Component, short_names
from features.ranking.steps import step_of
from features.recipes.recipe import Recipe
from submissions.expectation import fold_figures, study_of
from submissions.report.ranked import Scene
from submissions.report.weight_map import combination, weight_maps
from tuning.described import choice_name, share_names
from tuning.region import region_chains, vertices
from tuning.study import COORDINATE, completed, point_of
from tuning.verdict import near_best_share

SLICED = 6  # parameters that Optuna's slices show
ENOUGH = 10  # trials that importances need


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
    charts = {f"map-{number}": chart for number, chart in enumerate(maps.values())}
    charts |= optuna_charts(trials, components, scene.metric) if len(trials) > 1 else {}
    return {
        "recipe": recipe,
        "names": short_names(components),
        "trials": len(trials),
        "maps": [
            {"id": f"map-{number}", "title": title, "said": chart.pop("said")}
            for number, (title, chart) in enumerate(maps.items())
        ],
        "plots": [name for name in charts if not name.startswith("map-")],
        "charts": charts,
        "bound": recipe.provenance.get("certified bound"),
        "region": recipe.provenance.get("region"),
        "near": _near(scene, recipe),
        "folds": fold_figures(scene.configuration, recipe),
    }


def _near(scene: Scene, recipe: Recipe) -> float | None:
    """The share of the region within one standard error of the recipe; None with steps, whose candidates are others."""
    if recipe.steps:
        return None
    made = combination(scene, recipe.components, str(recipe.provenance.get("region", "similarity")))
    if made.padded is None:
        return None
    return near_best_share(made, made.average_precisions(recipe.weight_array), scene.judged)


def trial_weights(recipe: Recipe, trial: optuna.trial.FrozenTrial) -> np.ndarray | None:
    """A trial's weights in the region as the recipe's choices make it; None where a step joined the components."""
    coordinates, sums = point_of(trial.params, {})[1], np.array(recipe.provenance.get("sums", ()))
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
    from optuna import visualization

    names = share_names(components)
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        _, coordinates = point_of(trial.params, {})
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
    charts = {name: _chart(figure) for name, figure in found.items()}
    charts["history"]["layout"]["xaxis"] = {"title": {"text": "trial"}}
    for trace in charts["history"]["data"]:
        trace["name"] = {"Best Value": "best so far", metric: "a trial"}.get(trace["name"], trace["name"])
    if "importances" in charts:
        layout = charts["importances"]["layout"]
        layout |= {"height": 100 + 26 * len(importances), "showlegend": False, "yaxis": {}}
        layout["xaxis"] = {"title": {"text": "share"}, "range": [0, 1.15 * max(importances.values())]}
    for key, axis in charts.get("slices", {}).get("layout", {}).items():
        if key.startswith("xaxis"):
            broken = re.sub(r" (and|of) ", r"<br>\1 ", axis["title"]["text"])
            axis["title"] = {"text": broken.replace(", ", ",<br>")}
    return charts


def _chart(figure) -> dict:
    """A figure of Optuna's as plain values, without its template, title and quotes of words: the page has its own."""
    chart = json.loads(re.sub(r"\"'([^'\"]*)'\"", r'"\1"', figure.to_json()))
    layout = {key: value for key, value in chart["layout"].items() if key not in ("template", "title")}
    return {"data": chart["data"], "layout": layout}
