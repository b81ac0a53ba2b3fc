"""Names for what a trial sets, in words: the share of weight that goes to a layer, the value of a choice."""

from __future__ import annotations

from collections.abc import Sequence

from features.components import Component, layer_in_words
from tuning.region import chain_members


def share_names(components: Sequence[Component]) -> list[str]:
    """Return what each coordinate of a trial says: the share of weight that goes to a layer and all deeper ones."""
    poolings = {(part.backbone, part.pooling) for part in components if part.pooling is not None}
    chosen = [sum(backbone == part.backbone for backbone, _ in poolings) == 1 for part in components]
    names = [_without_choices(part, pooled=not one) for part, one in zip(components, chosen)]
    for members in chain_members([component.chain for component in components]):
        for member in members[:-1]:
            names[member] += " and deeper"
    if len({component.backbone for component in components} - {None}) > 1:
        names = [
            f"{name}, {component.backbone}" if component.backbone else name
            for name, component in zip(names, components)
        ]
    return [f"share of {name}" for name in names]


def _without_choices(component: Component, *, pooled: bool) -> str:
    """A component without its choices, which are parameters of their own; pooled: with its pooling, which is none."""
    if component.external is not None:
        return component.external
    if component.parts is None:
        return f"layer {component.layer}" + (f" {component.pooling}" if pooled else "")
    return f"part detectors of {layer_in_words(component.layer)}"


def choice_name(name: str, components: Sequence[Component]) -> str:
    """Return the name of a choice in words: "mobilenetv1_100.parts-4.count" is "part detectors of layer 4: count".

    A backbone that is the only one is left out.
    """
    place, _, key = name.rpartition(".")
    backbones = {component.backbone for component in components if component.backbone is not None}
    for backbone in backbones:
        own = backbone if len(backbones) > 1 else ""
        if place == backbone:
            return f"{own}: {key}" if own else key
        if place.startswith(f"{backbone}.parts-"):
            layer = layer_in_words(place.removeprefix(f"{backbone}.parts-"))
            return f"{own} part detectors of {layer}: {key}".strip()
    return f"{place}: {key}" if place else key


def parameter_name(name: str, components: Sequence[Component]) -> str:
    """Return the name of any parameter of a trial in words; coordinates that are not one a component keep theirs."""
    shares = {f"u{number}": share for number, share in enumerate(share_names(components))}
    return shares[name] if name in shares else choice_name(name, components)
