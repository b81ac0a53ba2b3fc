"""The weight map: MAP@k over all weights of three components, with the region under each reading and the trials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from competition.errors import Top7Error
from competition.progress import Progress
from features.components import Component, short_names
from features.recipes.recipe import Recipe
from submissions.report.ranked import Scene
from tuning.combination import Combination, open_combination
from tuning.evaluating import LARGE_GALLERY
from tuning.objective import PaddedCandidates, mean_average_precision
from tuning.region import contains, layer_sums, region_chains, vertices

STEPS = 24  # points on a side of the triangle
HEAVIEST = 7  # components whose triples are shown, 35 of them
LEAST_SHARE = 0.1  # of a recipe's weight that a slice must have to share out
READINGS = {"similarity": "solid", "distance": "dash"}


def weight_maps(scene: Scene, recipe: Recipe, tried: np.ndarray) -> dict[str, dict]:
    """Return charts by title. tried: (trials, L) weights of the study's trials, in the order of the recipe's components.

    Each map is exact: its candidates are those of the whole triangle. A slice shares out what the recipe gives the three,
    and shows the region alone, whose candidates the study has.
    """
    weights, found = recipe.weight_array, {}
    order = np.argsort(-weights, kind="stable")[:HEAVIEST]
    triples = [tuple(sorted(triple)) for triple in combinations(order.tolist(), 3)]
    if len(scene.gallery_ids) > LARGE_GALLERY:
        triples = triples[:1]  # each takes a pass over the gallery
    for triple in Progress(triples, desc="weight maps", unit="map"):
        parts = [recipe.components[number] for number in triple]
        made = combination(scene, parts, "simplex")
        title = ", ".join(short_names(parts))
        if made.padded is not None:
            found[title] = _alone(scene, made, weights[list(triple)], tried[:, list(triple)])
    if len(weights) > 3 and not recipe.steps:
        whole = combination(scene, recipe.components, str(recipe.provenance.get("region", "similarity")))
        for triple in triples:
            if whole.padded is not None and weights[list(triple)].sum() >= LEAST_SHARE:
                names = short_names([recipe.components[number] for number in triple])
                found[f"slice through the recipe: {', '.join(names)}"] = _slice(scene, whole, triple, weights)
    return found


def combination(scene: Scene, parts: Sequence[Component], region: str) -> Combination:
    """Return the combination of some components in a region; what the study has made of it is read."""
    judged, folder = scene.judged, scene.work / "candidates"
    asked = judged.query_ids, judged.relevant, judged.public
    return open_combination(scene.configuration, parts, *asked, region, folder)


def _public(scene: Scene, made: Combination) -> PaddedCandidates:
    assert made.padded is not None  # weight_maps passes over the others
    return made.padded.of_queries(scene.judged.public)


def _grid() -> np.ndarray:
    """The points of the triangle, (n, 3), each >= 0 and of sum 1."""
    counts = [(i, j, STEPS - i - j) for i in range(STEPS + 1) for j in range(STEPS + 1 - i)]
    return np.array(counts, dtype=np.float64) / STEPS


def _alone(scene: Scene, made: Combination, chosen: np.ndarray, tried: np.ndarray) -> dict:
    public, points = _public(scene, made), _grid()
    values = np.array([mean_average_precision(public, point) for point in points])
    names = short_names(made.components)
    traces = [_field(points, values, names, scene.metric)]
    for reading, dash in READINGS.items():
        sums = layer_sums(made.mean_similarity, reading)
        chains = region_chains([part.chain for part in made.components], reading)
        try:
            corners = vertices(sums, chains)
        except Top7Error:
            continue  # this reading orders nothing here
        outline = {"mode": "lines", "line": {"dash": dash, "width": 2}, "hoverinfo": "skip", "ink": True}
        traces.append(_trace(corners[[0, 1, 2, 0]], f"region, {reading}", **outline))
    share = tried.sum(axis=1)
    inside = tried[share > 0.02] / share[share > 0.02, None]
    if len(inside):
        dots = {"mode": "markers", "marker": {"size": 4, "opacity": 0.55}, "hoverinfo": "skip", "ink": True}
        traces.append(_trace(inside, "trials", **dots))
    if chosen.sum() > 0:
        traces.append(_star((chosen / chosen.sum())[None]))
    equal = points[values == values.max()]
    best = equal[np.argmin(((equal - equal.mean(axis=0)) ** 2).sum(axis=1))]  # the one in the middle
    at = ", ".join(f"{name} {weight:.2f}" for weight, name in zip(best, names))
    said = f"best of the map: {values.max():.4f}, at {at}"
    return {"data": traces, "layout": _layout(names), "said": said}


def _slice(scene: Scene, whole: Combination, triple: tuple[int, ...], weights: np.ndarray) -> dict:
    public, points = _public(scene, whole), _grid()
    share = weights[list(triple)].sum()
    shown, values = [], []
    for point in points:
        at = weights.copy()
        at[list(triple)] = share * point
        if contains(at, whole.sums, whole.chains):
            shown.append(point)
            values.append(mean_average_precision(public, at))
    names = short_names([whole.components[number] for number in triple])
    traces = [_star((weights[list(triple)] / share)[None])]
    if shown:
        traces.insert(0, _field(np.array(shown), np.array(values), names, scene.metric))
    said = f"the three share {share:.0%} of the weight; the others keep theirs; empty: outside the region"
    return {"data": traces, "layout": _layout(names), "said": said}


def _field(points: np.ndarray, values: np.ndarray, names: Sequence[str], metric: str) -> dict:
    texts = [
        f"{metric} {value:.4f}<br>" + "<br>".join(f"{name} {w:.3f}" for name, w in zip(names, point))
        for point, value in zip(points, values)
    ]
    marker = {
        "symbol": "hexagon",
        "color": values.round(5).tolist(),
        "colorscale": "Viridis",
        "size": 14,
        "colorbar": {"title": {"text": metric}, "thickness": 12, "len": 0.7},
    }
    return _trace(points, metric, mode="markers", marker=marker, text=texts, hoverinfo="text", grid=STEPS)


def _star(points: np.ndarray) -> dict:
    marker = {"symbol": "star", "size": 15, "color": "#e0402f", "line": {"color": "white", "width": 1.5}}
    return _trace(points, "the recipe's weights", mode="markers", marker=marker, hoverinfo="name")


def _trace(points: np.ndarray, name: str, **more: object) -> dict:
    a, b, c = points.round(5).T.tolist()
    return {"type": "scatterternary", "a": a, "b": b, "c": c, "name": name, **more}


def _layout(names: Sequence[str]) -> dict:
    axes = {
        axis: {"title": {"text": name.partition(" (")[0]}, "nticks": 5}
        for axis, name in zip(("aaxis", "baxis", "caxis"), names)
    }
    return {"ternary": axes, "height": 560, "legend": {"orientation": "h", "y": -0.12}}
