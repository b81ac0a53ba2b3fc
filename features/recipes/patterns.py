"""Recipes by name: small JSON files whose components are patterns, resolved on whatever a configuration
extracts.

{"name": …, "source": …, "components": [pattern, …], "weights": [one for each pattern], "steps": [step, …]}

A pattern names a layer's component, {"backbone", "layer", "pooling"}, a part detector's, {"backbone",
"parts", "count", "dim", "exponent"}, or external ones, {"external"}: backbone: "*" (every one, the default),
a name, or a number from 1 (beyond the last: counted on from the first again); layer: "all", "last", a name or
timm index as the configuration has it under {"is": …}, a number from the deepest, -1, -2, …, or a list of
these two kinds, of which the first that the backbone has; pooling: a name, or a list of which the first that the configuration has; parts: "*" or the table's number from 1; count,
dim, exponent: the nearest the table has; external: "*" or a name. A pattern that finds nothing is an error,
unless it says "optional": true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.configuration import Backbone, Configuration
from competition.errors import ConfigurationError, nearest
from features.components import (
    EMBEDDINGS,
    Component,
    depth_order,
    external_component,
    external_named,
    layer_component,
    parts_component,
)
from features.ranking.state import spread
from features.ranking.steps import are_weights, check_steps

FOLDER = Path(__file__).resolve().parent
KEYS = ("name", "source", "components", "weights", "steps")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1e9


def _backbone(value: Any) -> bool:
    return isinstance(value, str) or type(value) is int and value >= 1


def _layer(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(not isinstance(item, str | list) and _layer(item) for item in value)
    if isinstance(value, dict):
        return set(value) == {"is"} and type(value["is"]) in (int, str)
    return type(value) is int and value < 0 or isinstance(value, str)


def _pooling(value: Any) -> bool:
    return isinstance(value, str) or isinstance(value, list) and all(isinstance(name, str) for name in value)


# what a pattern's keys may be, and the words for it
PATTERN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "backbone": (_backbone, '"*", a name or a number from 1'),
    "layer": (_layer, '"all", "last", a negative number, {"is": …} or a list of these two'),
    "pooling": (_pooling, "a name or a list of names"),
    "parts": (_backbone, '"*" or a number from 1'),
    "count": (_number, "a number"),
    "dim": (_number, "a number"),
    "exponent": (_number, "a number"),
    "external": (lambda value: isinstance(value, str), '"*" or a name'),
    "optional": (lambda value: isinstance(value, bool), "true or false"),
}


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe file as read: components are patterns, weights one for each of them."""

    name: str
    source: str
    components: tuple[Mapping[str, Any], ...]
    weights: tuple[float, ...]
    steps: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Resolved:
    """A recipe on one configuration. weights: one for each component, of sum 1; groups: the pattern each
    stems from; notes: where the configuration has not quite what the recipe asks for, in words.
    """

    components: tuple[Component, ...]
    weights: tuple[float, ...]
    groups: tuple[int, ...]
    steps: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the program."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def named_recipe(name: str) -> NamedRecipe:
    """Return the recipe `name`, or the one in the file of that name; ConfigurationError names the nearest."""
    if name in recipe_names():
        return read_named_recipe(FOLDER / f"{name}.json")
    if Path(name).is_file():
        return read_named_recipe(Path(name))
    raise ConfigurationError(f"no recipe and no file {name!r}: {nearest(name, recipe_names())}")


def read_named_recipe(path: Path) -> NamedRecipe:
    """Read a recipe file of patterns; ConfigurationError, one line, for everything wrong in it."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not a recipe (JSON expected): {error}") from None
    if (
        not isinstance(values, dict)
        or not isinstance(values.get("components"), list)
        or not values["components"]
    ):
        raise ConfigurationError(f"{path}: not a recipe: expected an object with a list of components")
    for key in values:
        if key not in KEYS:
            raise ConfigurationError(f"{path}: unknown key {key!r}: {nearest(key, KEYS)}")
    for pattern in values["components"]:
        if not isinstance(pattern, dict):
            raise ConfigurationError(f"{path}: a component is {pattern!r:.60}: expected an object")
        for key, value in pattern.items():
            if key not in PATTERN:
                raise ConfigurationError(
                    f"{path}: a component has the unknown key {key!r}: {nearest(key, PATTERN)}"
                )
            fits, words = PATTERN[key]
            if not fits(value):
                raise ConfigurationError(f"{path}: a component has {key} = {value!r:.60}: expected {words}")
    weights = values.get("weights", [1.0] * len(values["components"]))
    if not are_weights(weights):
        raise ConfigurationError(
            f"{path}: weights = {weights!r:.60}: expected a list of numbers >= 0, not all 0"
        )
    if len(weights) != len(values["components"]):
        raise ConfigurationError(
            f"{path}: {len(weights)} weights for {len(values['components'])} components: give one "
            "each, or none"
        )
    steps = values.get("steps", [])
    try:
        check_steps(steps)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return NamedRecipe(
        str(values.get("name", Path(path).stem)),
        str(values.get("source", "")),
        tuple(values["components"]),
        tuple(float(weight) for weight in weights),
        tuple(steps),
    )


def resolve(recipe: NamedRecipe, configuration: Configuration) -> Resolved:
    """Return the recipe's components, weights and steps on `configuration`.

    A pattern's weight is shared equally among the components it finds; those of optional patterns that find
    nothing fall away, the rest is scaled to sum 1. ConfigurationError names what the configuration lacks.
    """
    found: list[Component] = []
    groups: list[int] = []
    notes: list[str] = []
    for group, pattern in enumerate(recipe.components):
        matches = _matches(pattern, configuration, f"{configuration.path}: recipe {recipe.name}", notes)
        for component in matches:
            if component not in found:
                found.append(component)
                groups.append(group)
    if not found:
        raise ConfigurationError(f"{configuration.path}: recipe {recipe.name} finds no component at all")
    weights = spread(recipe.weights, groups)
    return Resolved(
        tuple(found), tuple(float(weight) for weight in weights), tuple(groups), recipe.steps, tuple(notes)
    )


def _matches(
    pattern: Mapping[str, Any], configuration: Configuration, where: str, notes: list[str]
) -> list[Component]:
    optional = bool(pattern.get("optional", False))
    if "external" in pattern:
        wanted = pattern["external"]
        found = (
            list(configuration.externals) if wanted == "*" else [external_named(configuration, str(wanted))]
        )
        if not found and not optional:
            raise ConfigurationError(f"{where} wants an external matrix: add an [[external]] table")
        return [external_component(external) for external in found]
    components: list[Component] = []
    for backbone in _backbones(pattern.get("backbone", "*"), configuration, where, notes):
        if "parts" in pattern:
            components += _parts(pattern, backbone, notes)
        else:
            components += _layers(pattern, backbone, where, optional, notes)
    if not components and not optional:
        raise ConfigurationError(
            f"{where} wants {dict(pattern)}, which the configuration does not have: "
            + (
                "add parts = { … } to the [[backbone]] and extract again"
                if "parts" in pattern
                else "add it and extract again"
            )
        )
    return components


def _backbones(wanted: Any, configuration: Configuration, where: str, notes: list[str]) -> Sequence[Backbone]:
    backbones = configuration.backbones
    if wanted == "*" or not backbones:
        return backbones
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 1:
        if wanted > len(backbones):
            notes.append(
                f"wants {wanted} backbones, there are {len(backbones)}: "
                f"{backbones[(wanted - 1) % len(backbones)].name} stands in for number {wanted}"
            )
        return [backbones[(wanted - 1) % len(backbones)]]
    names = [backbone.name for backbone in backbones]
    if wanted not in names:
        raise ConfigurationError(f"{where} wants the backbone {wanted!r}: {nearest(wanted, names)}")
    return [backbones[names.index(wanted)]]


def _layers(
    pattern: Mapping[str, Any], backbone: Backbone, where: str, optional: bool, notes: list[str]
) -> list[Component]:
    order = depth_order(backbone.layers)
    wanted = pattern.get("layer", "last")
    if isinstance(wanted, list):
        known = [layer for layer in wanted if _has_layer(order, layer)]
        wanted = known[0] if known else wanted
    if wanted == "all":
        layers = list(order)
    elif wanted == "last":
        layers = [order[-1]]
    elif _has_layer(order, wanted):
        layers = [wanted["is"] if isinstance(wanted, Mapping) else order[wanted]]
    else:
        notes.append(f"{backbone.name} has no layer {wanted!r} among {list(order)}")
        return []
    poolings = pattern.get("pooling", list(backbone.pooling))
    poolings = [poolings] if isinstance(poolings, str) else poolings
    pooling = next((name for name in poolings if name in backbone.pooling), None)
    if pooling is None:
        if optional:
            notes.append(f"{backbone.name} has no pooling {' or '.join(poolings)}")
            return []
        raise ConfigurationError(
            f"{where} wants the pooling {' or '.join(poolings)} of {backbone.name}, which extracts "
            f"{', '.join(backbone.pooling)}: add it to pooling = […] and extract again"
        )
    if pooling in EMBEDDINGS:  # one by itself, which stands for the deepest layer
        layers = [pooling] if order[-1] in layers else []
    return [layer_component(backbone, layer, pooling) for layer in layers]


def _has_layer(order: Sequence[int | str], wanted: Any) -> bool:
    """Whether a pattern's {"is": …}, or number from the deepest, is one of the layers."""
    if isinstance(wanted, Mapping):
        return wanted.get("is") in order
    return isinstance(wanted, int) and -len(order) <= wanted < 0


def _parts(pattern: Mapping[str, Any], backbone: Backbone, notes: list[str]) -> list[Component]:
    wanted, components = pattern["parts"], []
    for number, table in enumerate(backbone.parts):
        if wanted not in ("*", number + 1):
            continue
        chosen = []
        for key, values in (("count", table.counts), ("dim", table.dims), ("exponent", table.exponents)):
            target = pattern.get(key, values[-1])
            value = min(values, key=lambda value: (abs(value - target), value))
            if value != target:
                notes.append(f"{backbone.name} parts: {key} {value} is the nearest to {target}")
            chosen.append(value)
        components.append(parts_component(backbone, number, *chosen))
    return components


def weight_array(resolved: Resolved) -> np.ndarray:
    """Return the weights (L,) float64 of a resolved recipe."""
    return np.array(resolved.weights, dtype=np.float64)
