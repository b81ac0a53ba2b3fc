"""A recipe: everything that turns dumps into ranked lists, as one small JSON file a person can read.

{"name": …, "source": …, "components": […], "weights": [one for each], "steps": [step, …]}

Components are patterns (see features/recipes/patterns.py), which a configuration resolves, or, where the file says
"format": 1 as those that top7 writes do, the components of one configuration, with choice, scores, provenance, groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from competition.atomic import write_json
from competition.configuration import Configuration
from competition.errors import ConfigurationError
from features.components import Component, component_from
from features.ranking.arguments import Weights, argument_fault
from features.ranking.state import spread
from features.ranking.steps import check_steps
from features.recipes.patterns import Pattern, matches

FORMAT = 1
NAMED = "named recipe"


@dataclass(frozen=True)
class Recipe:
    """Components in their fixed order and a weight for each (>= 0, of sum 1), with where they come from.

    `choice`: the study's discrete choices; `scores`: figures by name (public, private, ...);
    `provenance`: region, sums S_l, study, trial, query split; `steps`: what happens to descriptors and lists after
    fusion (features/ranking/steps; none: exact search); `groups`: for steps with weights of their own, the entry each
    component stems from. As read from a file of patterns: `patterns` with a weight each in place of components;
    `source`: where the recipe is from, in words; `notes`: what a configuration has not quite as the patterns ask.
    """

    name: str
    components: tuple[Component, ...]
    weights: tuple[float, ...]
    choice: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()
    groups: tuple[int, ...] = ()
    patterns: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def weight_array(self) -> np.ndarray:
        """The weights as float64, (n_components,)."""
        return np.array(self.weights, dtype=np.float64)


class _File(msgspec.Struct):
    """What a recipe file may hold."""

    components: Annotated[list[dict], Meta(min_length=1, description="a list of objects")]
    format: Annotated[
        int, Meta(ge=FORMAT, le=FORMAT, description=f"{FORMAT}: write it with ./run.sh tune")
    ] = FORMAT
    name: Annotated[str, Meta(description="a name without / or \\ and without a leading dot")] = ""
    source: Annotated[str, Meta(description="a text")] = ""
    weights: Weights = []
    choice: Annotated[dict, Meta(description="an object")] = {}
    scores: Annotated[dict[str, float], Meta(description="an object of numbers by name")] = {}
    provenance: Annotated[dict, Meta(description="an object")] = {}
    steps: Any = ()
    groups: Annotated[
        list[Annotated[int, Meta(ge=0, lt=10_000)]], Meta(description="a list of whole numbers")
    ] = []


def check_weights(weights: np.ndarray, n_components: int, where: str) -> None:
    """Raise ConfigurationError unless `weights` are `n_components` finite numbers >= 0 of sum 1."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_components,):
        raise ConfigurationError(
            f"{where}: {weights.size} weights for {n_components} components: give one each"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
        raise ConfigurationError(f"{where}: weights {weights.tolist()} must be numbers >= 0 of sum 1")


def write_recipe(path: Path, recipe: Recipe) -> Path:
    """Write `recipe` to `path`, atomically; weights keep every bit (repr round-trips)."""
    check_weights(recipe.weight_array, len(recipe.components), str(path))
    values = asdict(recipe)
    for part in values["components"]:
        for key in [key for key in part if part[key] is None]:
            del part[key]
    left_out = ("patterns", "source", "notes")
    return write_json(path, {"format": FORMAT} | {key: values[key] for key in values if key not in left_out})


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file; ConfigurationError, in one line that names it, where it is absent or not one."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: no such recipe: run ./run.sh tune first, or give --recipe FILE"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not a recipe (JSON expected): {error}") from None
    if not isinstance(values, dict) or not values.get("components"):
        raise ConfigurationError(f"{path}: not a recipe: expected an object with a list of components")
    fault = argument_fault(_File, values)
    name = values.get("name", path.stem)
    if fault is None and (  # a recipe's submissions are named after it
        not name.isprintable() or {"/", "\\"} & set(name) or not 0 < len(name) <= 100 or name[0] == "."
    ):
        fault = f"has name = {name!r:.60}: expected a name without / or \\ and without a leading dot"
    if fault is not None:
        raise ConfigurationError(f"{path}: {fault}")
    check_steps(values.get("steps", []), str(path))
    entries, resolved = values["components"], "format" in values
    weights = [float(weight) for weight in values.get("weights", [1.0] * len(entries))]
    if len(weights) != len(entries) or not any(weights):
        raise ConfigurationError(
            f"{path}: {len(weights)} weights for {len(entries)} components: give one each, or none; not all 0"
        )
    for number, entry in enumerate(entries, start=1):
        if not resolved and (fault := argument_fault(Pattern, entry)):
            raise ConfigurationError(f"{path}: component {number} {fault}")
    components: tuple[Component, ...] = ()
    if resolved:
        check_weights(np.array(weights), len(entries), str(path))
        try:
            components = tuple(map(component_from, entries))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from None
    given = {key: values[key] for key in ("choice", "scores", "provenance", "source") if key in values}
    return Recipe(
        name,
        components,
        tuple(weights),
        steps=tuple(values.get("steps", ())),
        groups=tuple(values.get("groups", ())),
        patterns=() if resolved else tuple(entries),
        **given,
    )


def resolve(recipe: Recipe, configuration: Configuration) -> Recipe:
    """Return the recipe with the components of `configuration` in place of patterns.

    A pattern's weight is shared equally among the components it finds, and one that several find has the sum; those of
    optional patterns that find nothing fall away, the rest is scaled to sum 1. ConfigurationError names what the configuration lacks.
    """
    if not recipe.patterns:
        return recipe
    pairs: list[tuple[Component, int]] = []
    notes: list[str] = []
    where = f"{configuration.path}: recipe {recipe.name}"
    for group, pattern in enumerate(recipe.patterns):
        pairs += [(component, group) for component in matches(pattern, configuration, where, notes)]
    if not pairs:
        raise ConfigurationError(f"{where} finds no component at all")
    weights: dict[Component, float] = {}
    groups: dict[Component, int] = {}
    shares = spread(recipe.weights, [group for _, group in pairs]).tolist()
    for (component, group), weight in zip(pairs, shares):
        weights[component] = weights.get(component, 0.0) + weight
        groups.setdefault(component, group)
    return replace(
        recipe,
        components=tuple(weights),
        weights=tuple(weights.values()),
        groups=tuple(groups.values()),
        patterns=(),
        notes=tuple(dict.fromkeys(notes)),
    )
