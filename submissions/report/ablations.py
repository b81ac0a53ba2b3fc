"""The ablations page: MAP@k of each layer and pooling alone, of each setting of the part detectors, after each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

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

Lines = dict[str, list[tuple[str, Recipe]]]  # name of a line -> (where on the axis, what is measured there)


def ablations(scene: Scene) -> dict[str, object] | None:
    """Return charts and tables, all on all labelled queries; None without labels or dumps."""
    if scene.labelled is None:
        return None
    charts, tables = {}, []
    for key, title, axis, lines in _asked(scene):
        cells = [
            {"name": name, "at": at, **figure}
            for name, line in lines.items()
            for at, recipe in line
            if (figure := _figure(scene, recipe)) is not None
        ]
        if cells:
            tables.append({"id": key, "title": title, "axis": axis, "rows": cells})
            charts[key] = {"metric": scene.metric, "axis": axis, "rows": cells}
    return {"tables": tables, "charts": charts} if tables else None


def _asked(scene: Scene) -> Iterator[tuple[str, str, str, Lines]]:
    """Give id, title, axis and lines of each chart."""
    for number, backbone in enumerate(scene.configuration.backbones):
        lines = {
            pooling: [
                (str(layer), _alone(layer_component(backbone, layer, pooling)))
                for layer in layers_under(backbone, pooling)
            ]
            for pooling in backbone.pooling
        }
        yield f"layers-{number}", f"{backbone.name}: each layer alone, by pooling", "layer", lines
        for table, parts in enumerate(backbone.parts):
            lines = {}
            for count, exponent, dim in product(parts.counts, parts.exponents, parts.dims):
                component = parts_component(backbone, table, count, dim, exponent)
                path = component_path(scene.configuration, component, "gallery")
                if len(scene.gallery_ids) <= LARGE_GALLERY or path.exists():  # or what the study has made
                    line = lines.setdefault(f"{count} detectors, exponent {exponent:g}", [])
                    line.append((str(dim), _alone(component)))
            title = f"{backbone.name}: part detectors of {layer_in_words(parts.layer)} alone, by dimension"
            yield f"parts-{number}-{table}", title, "dimension after whitening", lines
    elsewhere = [(each.name, _alone(external_component(each))) for each in scene.configuration.externals]
    yield "externals", "Descriptors made elsewhere", "descriptors", {"alone": elsewhere}
    lines = {}
    for name, ranked in scene.ranked.items():
        if steps := ranked.recipe.steps:  # none of them, the first, the first two, ...
            so_far = [(str(n), replace(ranked.recipe, steps=steps[:n])) for n in range(len(steps) + 1)]
            lines[f"{name}: {', '.join(str(step['step']) for step in steps)}"] = so_far
    yield "steps", "Recipes after each of their steps", "steps so far", lines


def _alone(component: Component) -> Recipe:
    return Recipe(component.name, (component,), (1.0,))


def _figure(scene: Scene, recipe: Recipe) -> dict | None:
    """A recipe's own figure; None, with a line, where it cannot be ranked."""
    try:
        values = labelled_precisions(scene.configuration, recipe, scene.judged)
    except Top7Error as error:
        log.warning(f"top7: left out of the ablations: {error}")
        return None
    return {"mean": float(values.mean()), "interval": group_interval(values, scene.judged.groups)}
