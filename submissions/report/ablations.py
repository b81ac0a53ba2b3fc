"""The ablations page: MAP@k of each layer and pooling alone, of each setting of the part detectors, after each step."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

from competition.configuration import Backbone
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
from submissions.report.ranked import Ranked, Scene
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
        f"{name}: {', '.join(str(step['step']) for step in ranked.recipe.steps)}": _steps(scene, ranked)
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
        cells = [{"name": name, "at": x, **figure} for name, line in rows.items() for x, figure in line]
        self.tables.append({"id": key, "title": title, "axis": axis, "rows": cells})
        traces = []
        for name in rows:
            own = [cell for cell in cells if cell["name"] == name]
            trace: dict[str, Any] = {"type": "scatter", "mode": "lines+markers", "name": name}
            trace |= {"x": [cell["at"] for cell in own], "y": [round(cell["mean"], 5) for cell in own]}
            if len(rows) <= MOST_BARS:
                bars = [
                    round(cell["interval"][1] - cell["mean"], 5) if cell["interval"] else 0 for cell in own
                ]
                trace["error_y"] = {"type": "data", "array": bars, "thickness": 1, "width": 2}
            traces.append(trace)
        layout: dict[str, Any] = {"height": 380, "showlegend": True}
        layout["xaxis"] = {"title": {"text": axis}, "type": "category"}
        layout["yaxis"] = {"title": {"text": self.metric}, "rangemode": "tozero"}
        self.charts[key] = {"data": traces, "layout": layout}


def _figure(scene: Scene, recipe: Recipe) -> dict | None:
    """A recipe's own figure; None, with a line, where it cannot be ranked."""
    try:
        values = labelled_precisions(scene.configuration, recipe, scene.judged)
    except Top7Error as error:
        log.warning(f"top7: left out of the ablations: {error}")
        return None
    return {"mean": float(values.mean()), "interval": group_interval(values, scene.judged.groups)}


def _alone(scene: Scene, component: Component) -> dict | None:
    return _figure(scene, Recipe(component.name, (component,), (1.0,)))


def _parts(scene: Scene, backbone: Backbone, number: int) -> dict[str, list]:
    """A line for each count and exponent over the dimensions; of a large gallery only what the study has made."""
    table, rows = backbone.parts[number], {}
    for count, exponent in product(table.counts, table.exponents):
        line = []
        for dim in table.dims:
            component = parts_component(backbone, number, count, dim, exponent)
            path = component_path(scene.configuration, component, "gallery")
            if len(scene.gallery_ids) <= LARGE_GALLERY or path.exists():
                line.append((str(dim), _alone(scene, component)))
        rows[f"{count} detectors, exponent {exponent:g}"] = line
    return rows


def _steps(scene: Scene, ranked: Ranked) -> list[tuple[str, dict | None]]:
    """The recipe's figure with none of its steps, the first, the first two, ..."""
    recipes = [
        replace(ranked.recipe, steps=ranked.recipe.steps[:count])
        for count in range(len(ranked.recipe.steps) + 1)
    ]
    return [(str(count), _figure(scene, recipe)) for count, recipe in enumerate(recipes)]
