"""What a fusion is made of: components, the chains eq. 3 orders, and the choices a study makes among them.

A component is one term of the fused score: one layer of one backbone under one pooling, one setting of a part
detector table (PWA), or one external matrix. The layers of one backbone under the chosen pooling form a chain,
shallow to deep; everything else is a chain of its own: whitened descriptors are centred, their mean
cosine is about zero, and within the order they would take all the weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from competition.configuration import Backbone, Configuration, External, Parts
from competition.errors import ConfigurationError, nearest

Choice = Mapping[str, Any]
EMBEDDINGS = ("cls", "head")  # the network's own: its class token; its pooled output before any classifier


@dataclass(frozen=True)
class PartsSetting:
    """One setting of a backbone's part detectors: the table's number, and a count, a dimension and an exponent of it."""

    table: int
    count: int
    dim: int
    exponent: float


@dataclass(frozen=True)
class Component:
    """One term of the fused score; `chain` groups the layers that eq. 3 orders, in their order in the recipe.

    views: the queries of users are described by several views, see `by_views`.
    """

    name: str
    chain: str
    backbone: str | None = None
    layer: int | str | None = None
    pooling: str | None = None
    parts: int | None = None  # number of the backbone's parts table
    count: int | None = None
    dim: int | None = None
    exponent: float | None = None
    external: str | None = None
    views: bool | None = None

    @property
    def pooled(self) -> tuple[int | str, str]:
        """The layer and the pooling of a component that has them; ConfigurationError for another."""
        if self.layer is None or self.pooling is None:
            raise ConfigurationError(f"the component {self.name} has no layer or no pooling: expected both")
        return self.layer, self.pooling

    @property
    def setting(self) -> PartsSetting | None:
        """The setting of part detectors; None for a component without. ConfigurationError: some of it is missing."""
        if self.parts is None:
            return None
        if self.count is None or self.dim is None or self.exponent is None:
            raise ConfigurationError(
                f"the component {self.name} has parts = {self.parts}: expected a count, a dim and an exponent beside it"
            )
        return PartsSetting(self.parts, self.count, self.dim, self.exponent)


def depth_order(layers: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return `layers` shallow to deep: timm indices and the papers' VGG names are sorted, module names kept."""
    if all(isinstance(layer, int) for layer in layers):
        return tuple(sorted(layers))
    matches = [re.fullmatch(r"(?:conv(\d)_(\d)|pool(\d))", str(layer)) for layer in layers]
    keys = {str(l): (int(m[1] or m[3]), int(m[2] or 9)) for l, m in zip(layers, matches) if m is not None}
    return tuple(sorted(layers, key=lambda layer: keys[str(layer)])) if all(matches) else layers


def layers_under(backbone: Backbone, pooling: str) -> tuple[int | str, ...]:
    """Return the layers that `pooling` describes, shallow to deep; the network's own embeddings are one by themselves."""
    return (pooling,) if pooling in EMBEDDINGS else depth_order(backbone.layers)


def parts_label(backbone: Backbone, number: int) -> str:
    """Return the name of parts table `number`: its layer, and its number where the layer has two."""
    layer = backbone.parts[number].layer
    twins = [i for i, table in enumerate(backbone.parts) if table.layer == layer]
    return f"{backbone.name}.parts-{layer}" + (f"-{twins.index(number) + 1}" if len(twins) > 1 else "")


def choices(configuration: Configuration) -> dict[str, tuple]:
    """Return the study's discrete parameters and their values, in the configuration's order.

    Per backbone one pooling; per parts table a count, a dimension and an exponent.
    """
    found: dict[str, tuple] = {}
    for backbone in configuration.backbones:
        found[f"{backbone.name}.pooling"] = tuple(backbone.pooling)
        for number, table in enumerate(backbone.parts):
            label = parts_label(backbone, number)
            found[f"{label}.count"] = tuple(table.counts)
            found[f"{label}.dim"] = tuple(table.dims)
            found[f"{label}.exponent"] = tuple(table.exponents)
    return found


def check_choice(
    configuration: Configuration, choice: Choice, known: Mapping[str, tuple] | None = None
) -> None:
    """Raise ConfigurationError where `choice` names a parameter or value that the configuration does not have.

    known: the parameters and their values, None for the configuration's own.
    """
    known = choices(configuration) if known is None else known
    where = f"{configuration.path}: the recipe"
    for name in choice:
        if name not in known:
            raise ConfigurationError(
                f"{where} chooses {name!r}, which is no choice here: {nearest(name, known)}"
            )
    for name, values in known.items():
        if name not in choice:
            raise ConfigurationError(f"{where} lacks a choice for {name!r}, one of {values}")
        if choice[name] not in values:
            raise ConfigurationError(
                f"{where} chooses {name} = {choice[name]!r}, the configuration has {values}: add it there and extract again"
            )


def components_of(configuration: Configuration, choice: Choice) -> tuple[Component, ...]:
    """Return the components of one combination of choices, in the one order every sum uses."""
    check_choice(configuration, choice)
    found: list[Component] = []
    for backbone in configuration.backbones:
        pooling = str(choice[f"{backbone.name}.pooling"])
        found += [layer_component(backbone, layer, pooling) for layer in layers_under(backbone, pooling)]
        for number in range(len(backbone.parts)):
            label = parts_label(backbone, number)
            count, dim, exponent = (choice[f"{label}.{key}"] for key in ("count", "dim", "exponent"))
            found.append(parts_component(backbone, number, int(count), int(dim), float(exponent)))
    found += [external_component(external) for external in configuration.externals]
    return tuple(found)


def layer_component(
    backbone: Backbone, layer: int | str, pooling: str, views: bool | None = None
) -> Component:
    """Return the component of one layer under one pooling; views: its queries are described by views."""
    of = f"{pooling}/views" if views else pooling
    chain, name = f"{backbone.name}/{of}", f"{backbone.name}/{layer}/{of}"
    return Component(name, chain, backbone.name, layer, pooling, views=views)


def parts_component(backbone: Backbone, number: int, count: int, dim: int, exponent: float) -> Component:
    """Return the component of one setting of parts table `number`."""
    table: Parts = backbone.parts[number]
    label = parts_label(backbone, number)
    name = f"{label}/N{count}-M{dim}-t{exponent:g}"
    return Component(name, label, backbone.name, table.layer, None, number, count, dim, exponent)


def external_component(external: External) -> Component:
    """Return the component of one external matrix."""
    return Component(f"external/{external.name}", f"external/{external.name}", external=external.name)


def short_names(components: Sequence[Component]) -> list[str]:
    """Return the components' names in words, with their backbone where they have several."""
    several = len({component.backbone for component in components} - {None}) > 1
    return [full_name(component) if several else _short(component) for component in components]


def full_name(component: Component) -> str:
    """Return a component's name in words with its backbone: "mobilenetv1_100 layer 4 rmac"."""
    return f"{component.backbone} {_short(component)}" if component.backbone else _short(component)


def layer_in_words(layer: int | str | None) -> str:
    """Return a layer's name, an index as "layer 4"."""
    return f"layer {layer}" if str(layer).isdigit() else str(layer)


def _short(component: Component) -> str:
    if component.external is not None:
        return component.external
    layer = layer_in_words(component.layer)
    if component.parts is None:
        found = layer if component.layer == component.pooling else f"{layer} {component.pooling}"
        return f"{found} by views" if component.views else found
    return f"{component.count} parts of {layer} ({component.dim} dims, exponent {component.exponent:g})"


def backbone_of(configuration: Configuration, component: Component) -> Backbone:
    """Return the backbone that a component names, or raise ConfigurationError naming the nearest."""
    return _named(configuration, "backbone", configuration.backbones, component.backbone)


def external_named(configuration: Configuration, name: str) -> External:
    """Return the external `name`, or raise ConfigurationError naming the nearest."""
    return _named(configuration, "external", configuration.externals, name)


def _named(configuration: Configuration, noun: str, tables: Sequence[Any], name: str | None) -> Any:
    found = {table.name: table for table in tables}
    if name not in found:
        raise ConfigurationError(f"{configuration.path}: no {noun} {name!r}: {nearest(name, found)}")
    return found[name]


def component_from(values: Mapping[str, Any]) -> Component:
    """Rebuild a component from the plain values a recipe file holds; unknown keys are an error."""
    known = Component.__dataclass_fields__
    for key in values:
        if key not in known:
            raise ConfigurationError(
                f"a component of the recipe has the unknown key {key!r}: {nearest(key, known)}"
            )
    try:
        return msgspec.convert(values, Component)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"a component of the recipe: {error}") from None
