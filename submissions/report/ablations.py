"""The ablations page: MAP@k of each layer and pooling alone, of each setting of the part detectors, after each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from competition.errors import Top7Error
from competition.messages import log
from features.components import (
    Component,
    external_component,
    layer_component,
    layer_in_words,
    layers_under,
    parts_component,
)
from features.dumps.layout import component_path
from features.recipes.recipe import Recipe
from submissions.report.ranked import Scene
from tuning.evaluating import LARGE_GALLERY, labelled_precisions
from tuning.validation import group_interval

MOST_BARS = 3  # lines of a chart that still show their intervals; the table has them all


def ablations(scene: Scene) -> dict[str, object] | None:
    """Return charts and tables, all on all labelled queries; None without labels or dumps."""
    if scene.labelled is None:
        return None
    found = _Ablations(scene.metric)
    for number, backbone in enumerate(scene.configuration.backbones):
        rows = {
            pooling: [
                (str(layer), _alone(scene, layer_component(backbone, layer, pooling)))
                for layer in layers_under(backbone, pooling)
            ]
            for pooling in backbone.pooling
        }
        found.add(f"layers-{number}", f"{backbone.name}: each layer alone, by pooling", "layer", rows)
        for table, parts in enumerate(backbone.parts):
            title = f"{backbone.name}: part detectors of {layer_in_words(parts.layer)} alone, by dimension"
            rows = _parts(scene, backbone, table)
            found.add(f"parts-{number}-{table}", title, "dimension after whitening", rows)
    elsewhere = [
        (each.name, _alone(scene, external_component(each))) for each in scene.configuration.externals
    ]
    found.add("externals", "Descriptors made elsewhere", "descriptors", {"alone": elsewhere})
    rows = {
        f"{name}: {', '.join(str(step['step']) for step in ranked.recipe.steps)}": _steps(scene, name)
        for name, ranked in scene.ranked.items()
        if ranked.recipe.steps
    }
    found.add("steps", "Recipes after each of their steps", "steps so far", rows)
    return {"tables": found.tables, "charts": found.charts} if found.tables else None


class _Ablations:
    """Charts with the tables of their figures."""

    def __init__(self, metric: str) -> None:
        self.metric, self.charts, self.tables = metric, dict[str, dict](), list[dict]()

    def add(self, key: str, title: str, axis: str, rows: dict[str, list]) -> None:
        """Add a chart, one line a name of `rows`; what could not be measured is left out."""
        rows = {name: [each for each in line if each[1] is not None] for name, line in rows.items()}
        rows = {name: line for name, line in rows.items() if line}
        if not rows:
            return
        traces = []
        for name, line in rows.items():
            trace: dict[str, Any] = {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [x for x, _ in line],
            }
            trace["y"] = [round(figure["mean"], 5) for _, figure in line]
            if len(rows) <= MOST_BARS:
                bars = [_half(figure) for _, figure in line]
                trace["error_y"] = {"type": "data", "array": bars, "thickness": 1, "width": 2}
            traces.append(trace)
        layout = {
            "xaxis": {"title": {"text": axis}, "type": "category"},
            "yaxis": {"title": {"text": self.metric}, "rangemode": "tozero"},
            "height": 380,
            "showlegend": True,
        }
        self.charts[key] = {"data": traces, "layout": layout}
        cells = [{"name": name, "at": x, **figure} for name, line in rows.items() for x, figure in line]
        self.tables.append({"id": key, "title": title, "axis": axis, "rows": cells})


def _half(figure: dict) -> float:
    return 0.0 if figure["interval"] is None else round(figure["interval"][1] - figure["mean"], 5)


def _figure(values: np.ndarray, scene: Scene) -> dict:
    return {"mean": float(values.mean()), "interval": group_interval(values, scene.judged.groups)}


def _alone(scene: Scene, component: Component) -> dict | None:
    """A component's own figure; None where its dump is not there."""
    recipe = Recipe(component.name, (component,), (1.0,))
    try:
        return _figure(labelled_precisions(scene.configuration, recipe, scene.judged), scene)
    except Top7Error as error:
        log.warning(f"top7: left out of the ablations: {error}")
        return None


def _parts(scene: Scene, backbone, number: int) -> dict[str, list]:
    """A line for each count and exponent over the dimensions; of a large gallery only what the study has made."""
    table, rows = backbone.parts[number], {}
    for count in table.counts:
        for exponent in table.exponents:
            line = []
            for dim in table.dims:
                component = parts_component(backbone, number, count, dim, exponent)
                path = component_path(scene.configuration, component, "gallery")
                if len(scene.gallery_ids) <= LARGE_GALLERY or path.exists():
                    line.append((str(dim), _alone(scene, component)))
            rows[f"{count} detectors, exponent {exponent:g}"] = line
    return rows


def _steps(scene: Scene, name: str) -> list[tuple[str, dict | None]]:
    """The recipe's figure with none of its steps, the first, the first two, ..."""
    ranked, line = scene.ranked[name], []
    recipe = ranked.recipe
    for count in range(len(recipe.steps)):
        part = replace(recipe, steps=recipe.steps[:count])
        try:
            values = labelled_precisions(scene.configuration, part, scene.judged)
        except Top7Error as error:
            log.warning(f"top7: {name} after {count} steps is left out: {error}")
            continue
        line.append((str(count), _figure(values, scene)))
    whole = None if ranked.precisions is None else _figure(ranked.precisions, scene)
    return [*line, (str(len(recipe.steps)), whole)]
