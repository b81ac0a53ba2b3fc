"""What the layers of a [[backbone]] stand for: timm's feature indices, module names, the papers' VGG names."""

from __future__ import annotations

import re

import torch
from torch import nn

from competition.configuration import Backbone
from competition.errors import ConfigurationError, nearest
from features.models import create_model, whole_options

Layer = int | str
PAPER_NAME = re.compile(r"conv(\d)_(\d)|pool(\d)")


def paper_indices(backbone: Backbone) -> dict[str, int]:
    """Feature indices of the papers' names, if every layer has one: then timm's truncated network is
    enough.
    """
    if not any(isinstance(layer, str) and PAPER_NAME.fullmatch(layer) for layer in backbone.layers):
        return {}
    known = _vgg_names(backbone)
    found = {layer: known.get(layer, (None, None))[1] for layer in backbone.layers if isinstance(layer, str)}
    return {} if None in found.values() else found


def module_name(backbone: Backbone, layer: Layer) -> str:
    """The module that a layer of a mixed list stands for."""
    if isinstance(layer, int):
        options = backbone.options | {"features_only": True}
        try:
            info = create_model(backbone, options).feature_info.info[layer]
        except Exception as error:
            raise no_such_layer(backbone, options, (layer,), error) from None
        return str(info["module"])
    if not PAPER_NAME.fullmatch(layer):
        return layer
    known = _vgg_names(backbone)
    if known and layer not in known:
        raise ConfigurationError(
            f"[[backbone]] {backbone.name}: {backbone.model!r} has no layer {layer!r}; "
            f"{nearest(layer, known)}"
        )
    return known[layer][0] if known else layer


def _vgg_names(backbone: Backbone) -> dict[str, tuple[str, int | None]]:
    """The papers' names of a timm VGG: conv3_2 -> (its ReLU's module, its feature index or None), pool5."""
    if "vgg" not in backbone.model:
        return {}
    with torch.device("meta"):  # names and shapes, no values
        whole = create_model(backbone, whole_options(backbone) | {"num_classes": 0})
    features = getattr(whole, "features", None)
    if not isinstance(features, nn.Sequential):  # RepVGG and others with vgg in their name alone
        return {}
    names: dict[str, tuple[str, int | None]] = {}
    block, number, index = 1, 0, 0
    for position, part in enumerate(features):
        if isinstance(part, nn.ReLU):
            number += 1
            names[f"conv{block}_{number}"] = (f"features.{position}", None)
        elif isinstance(part, nn.MaxPool2d):
            last = f"conv{block}_{number}"
            names[last] = (names[last][0], index)
            names[f"pool{block}"] = (f"features.{position}", None)
            block, number, index = block + 1, 0, index + 1
    names[f"pool{block - 1}"] = (f"features.{len(features) - 1}", index)
    return names


def no_such_layer(
    backbone: Backbone, options: dict, layers: tuple, error: Exception | None
) -> ConfigurationError:
    try:
        known = [
            str(info["index"])
            for info in create_model(backbone, options).feature_info.info
            if "index" in info
        ]
        known = known or [str(n) for n in range(len(create_model(backbone, options).feature_info.info))]
    except Exception as failure:
        return ConfigurationError(
            f"[[backbone]] {backbone.name}: timm gives no feature maps of {backbone.model!r} by "
            f"number ({' '.join(str(failure).split())[:120]}): name modules in layers = […]"
        )
    unknown = [layer for layer in layers if str(layer) not in known]
    if not unknown and error is not None:
        return ConfigurationError(
            f"[[backbone]] {backbone.name}: timm cannot build {backbone.model!r} with options "
            f"{backbone.options}: {' '.join(str(error).split())[:200]}"
        )
    return ConfigurationError(
        f"[[backbone]] {backbone.name}: {backbone.model!r} has no layer {unknown[0]!r}; "
        f"{nearest(unknown[0], known)}"
    )
