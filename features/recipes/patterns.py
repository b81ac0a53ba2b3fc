"""The patterns by which a recipe names components, found on whatever a configuration extracts.

A pattern names a layer's component, {"backbone", "layer", "pooling"}, a part detector's, {"backbone", "parts", "count",
"dim", "exponent"}, or external ones, {"external"}. A pattern that finds nothing is an error, unless it says
"optional": true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from competition.configuration import Backbone, Configuration
from competition.errors import ConfigurationError, nearest
from competition.messages import log
from features.components import (
    EMBEDDINGS,
    Component,
    depth_order,
    external_component,
    external_named,
    layer_component,
    parts_component,
)
from features.dumps.layout import has_views
from features.ranking.arguments import Flag, number


class LayerIs(msgspec.Struct, rename={"layer": "is"}, forbid_unknown_fields=True):
    """A layer as the configuration has it: a name or a timm index."""

    layer: int | str


_Depth = Annotated[int, Meta(lt=0)]
_Number = Annotated[float, number(0, 1e9)]


class Pattern(msgspec.Struct):
    """What a component must be.

    backbone: "*" (every one), a name, or a number from 1 (beyond the last: counted on from the first again); layer:
    "all", "last", a name or timm index under {"is": …}, a number from the deepest, -1, -2, …, or a list of these two
    kinds, of which the first that the backbone has; pooling: a name, or a list of which the first that the configuration
    has (`head` and `cls`, the network's own embeddings, are found whatever the layer); views: of a layer, that queries are described by views, where the configuration has them; parts: "*" or the
    table's number from 1; count, dim, exponent: the nearest the table has; external: "*" or a name.
    """

    backbone: Annotated[
        Annotated[int, Meta(ge=1)] | str, Meta(description='"*", a name or a number from 1')
    ] = "*"
    layer: Annotated[
        _Depth | str | LayerIs | Annotated[list[_Depth | LayerIs], Meta(min_length=1)],
        Meta(description='"all", "last", a negative number, {"is": …} or a list of these two'),
    ] = "last"
    pooling: Annotated[str | list[str] | None, Meta(description="a name or a list of names")] = None
    parts: Annotated[Annotated[int, Meta(ge=1)] | str | None, Meta(description='"*" or a number from 1')] = (
        None
    )
    count: _Number | None = None
    dim: _Number | None = None
    exponent: _Number | None = None
    external: Annotated[str | None, Meta(description='"*" or a name')] = None
    views: Flag = False
    optional: Flag = False


class NoMatch(ConfigurationError):
    """A recipe wants what the configuration does not extract."""


def say_unmatched(errors: Mapping[str, NoMatch]) -> None:
    """Say, in one line, which recipes were left out since the configuration does not extract what they want."""
    if len(errors) == 1:
        log.warning(f"top7: left out: {next(iter(errors.values()))}")
    elif errors:
        log.warning(
            f"top7: left out: {', '.join(errors)}: they want poolings, part detectors or networks that the "
            "configuration does not extract (./run.sh compare NAME says which)"
        )


def matches(
    pattern: Mapping[str, Any], configuration: Configuration, where: str, notes: list[str]
) -> list[Component]:
    """Return the components that a checked pattern finds; what is not quite as it asks is added to `notes`.

    NoMatch, which begins with `where`: it finds none and is not optional.
    """
    wanted = Pattern(**pattern)
    if wanted.external is not None:
        found = list(configuration.externals)
        if wanted.external != "*":
            found = [external_named(configuration, wanted.external)]
        if not found and not wanted.optional:
            raise NoMatch(f"{where} wants an external matrix: add an [[external]] table")
        return [external_component(external) for external in found]
    components: list[Component] = []
    for backbone in _backbones(wanted.backbone, configuration, where, notes):
        if wanted.parts is None:
            views = wanted.views and has_views(configuration, backbone)
            if wanted.views and not views:
                notes.append(f"{backbone.name} has no query_views: queries are described as they are")
            components += _layers(wanted, backbone, where, notes, views or None)
        else:
            components += _parts(wanted, backbone, notes)
    if not components and not wanted.optional:
        asked = ", ".join(f"{key} {value}" for key, value in pattern.items())
        lacking = "add it" if wanted.parts is None else "add parts = { … } to the [[backbone]]"
        raise NoMatch(
            f"{where} wants {asked}, which the configuration does not have: {lacking} and extract again"
        )
    return components


def _backbones(
    wanted: int | str, configuration: Configuration, where: str, notes: list[str]
) -> Sequence[Backbone]:
    backbones = configuration.backbones
    if wanted == "*" or not backbones:
        return backbones
    if isinstance(wanted, int):
        found = backbones[(wanted - 1) % len(backbones)]
        if wanted > len(backbones):
            notes.append(
                f"wants {wanted} backbones, there are {len(backbones)}: {found.name} takes the place of number {wanted}"
            )
        return [found]
    names = [backbone.name for backbone in backbones]
    if wanted not in names:
        raise NoMatch(f"{where} wants the backbone {wanted!r}: {nearest(wanted, names)}")
    return [backbones[names.index(wanted)]]


def _layers(
    pattern: Pattern, backbone: Backbone, where: str, notes: list[str], views: bool | None
) -> list[Component]:
    poolings = list(backbone.pooling) if pattern.pooling is None else pattern.pooling
    poolings = [poolings] if isinstance(poolings, str) else poolings
    pooling = next((name for name in poolings if name in backbone.pooling), None)
    if pooling in EMBEDDINGS:  # one by itself, of no layer
        return [layer_component(backbone, pooling, pooling, views)]
    order = depth_order(backbone.layers)
    wanted: Any = pattern.layer
    several = wanted if isinstance(wanted, list) else [wanted]
    layers = next((found for each in several if (found := _found(order, each))), None)
    if layers is None:
        asked = f"{-wanted} layers" if isinstance(wanted, int) else f"layer {wanted}"
        notes.append(f"{backbone.name} has not {asked}, only {', '.join(map(str, order))}")
        return []
    if pooling is None:
        asked = " or ".join(poolings)
        if pattern.optional:
            notes.append(f"{backbone.name} has no pooling {asked}")
            return []
        raise NoMatch(
            f"{where} wants the pooling {asked} of {backbone.name}, which extracts "
            f"{', '.join(backbone.pooling)}: add it to pooling = […] and extract again"
        )
    return [layer_component(backbone, layer, pooling, views) for layer in layers]


def _found(order: Sequence[int | str], wanted: Any) -> list[int | str]:
    """The layers that are a pattern's "all", "last", {"is": …}, or number from the deepest."""
    if wanted == "all":
        return list(order)
    if isinstance(wanted, Mapping):
        return [wanted["is"]] if wanted["is"] in order else []
    place = -1 if wanted == "last" else wanted
    return [order[place]] if isinstance(place, int) and -len(order) <= place < 0 else []


def _parts(pattern: Pattern, backbone: Backbone, notes: list[str]) -> list[Component]:
    components = []
    for place, table in enumerate(backbone.parts):
        if pattern.parts not in ("*", place + 1):
            continue
        chosen: list[Any] = []
        for key, values in (("count", table.counts), ("dim", table.dims), ("exponent", table.exponents)):
            target = getattr(pattern, key)
            target = values[-1] if target is None else target
            value = min(values, key=lambda value: (abs(value - target), value))
            if value != target:
                notes.append(f"{backbone.name} parts: {key} {value} is the nearest to {target}")
            chosen.append(value)
        components.append(parts_component(backbone, place, *chosen))
    return components
