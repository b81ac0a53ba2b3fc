"""The timm model of a [[backbone]]: what its layers are called, its weights and their digest."""

from __future__ import annotations

import difflib
import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from torch import Tensor, nn

import features.networks.mini_backbone.model  # noqa: F401  registers top7_vgg16_quarter
from competition.configuration import Backbone
from competition.errors import ConfigurationError, Top7Error, nearest
from features.networks.weights import read_state

Layer = int | str
PAPER_NAME = re.compile(r"conv(\d)_(\d)|pool(\d)")
RANDOM_SEED = 0
FEATURE_OPTIONS = ("features_only", "out_indices", "feature_location", "feature_cls", "output_stride")


def refused(backbone: Backbone, why: str) -> ConfigurationError:
    """The error that a [[backbone]] cannot be had as it is configured."""
    return ConfigurationError(f"[[backbone]] {backbone.name}: {why}")


def check_model(model: str) -> None:
    """Raise ConfigurationError with the nearest known name unless timm knows `model`."""
    if not timm.is_model(model.split(".")[0]):
        near = difflib.get_close_matches(model, timm.list_models(), n=5)
        raise ConfigurationError(
            f"unknown timm model {model!r}; "
            + (nearest(model, near) if near else "timm.list_models() gives the known ones")
        )


def model_cfg(backbone: Backbone) -> Any:
    """timm's description of a model's pretrained weights."""
    return timm.get_pretrained_cfg(backbone.model) or timm.models.PretrainedCfg()


_DRAWING = threading.RLock()


@contextmanager
def drawing() -> Iterator[None]:
    """One thread at a time makes a network with values: all draw from one generator, which is put back afterwards."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        yield


def create_model(backbone: Backbone, options: dict) -> Any:
    """timm's module, with the attributes that timm gives it. ConfigurationError: options that it refuses."""
    logging.getLogger("timm").setLevel(logging.ERROR)
    if not {"img_size", "dynamic_img_size"} & set(options):
        options = options | {
            "dynamic_img_size": True
        }  # transformers take any size with the weights as they are
    while True:
        try:
            return timm.create_model(backbone.model, **options)
        except TypeError as error:
            if "dynamic_img_size" in str(error) and "dynamic_img_size" not in backbone.options:
                del options["dynamic_img_size"]
                cfg = model_cfg(backbone)
                other = cfg.fixed_input_size and cfg.input_size[-1] != backbone.image_size
                if other and backbone.resize != "keep":
                    options["img_size"] = backbone.image_size
                continue
            if "unexpected keyword argument" in str(error):
                why = f"timm's {backbone.model!r} refuses the options {backbone.options}: {error}"
                raise refused(backbone, why) from None
            raise


def whole_model(backbone: Backbone, **more: Any) -> Any:
    """timm's module of the whole model, without the options that cut it at its features; more: further options."""
    whole = {key: value for key, value in backbone.options.items() if key not in FEATURE_OPTIONS}
    return create_model(backbone, whole | more)


def paper_indices(backbone: Backbone) -> dict[str, int]:
    """Feature indices of the papers' names, if every layer has one: then timm's truncated network is enough."""
    if not any(isinstance(layer, str) and PAPER_NAME.fullmatch(layer) for layer in backbone.layers):
        return {}
    known = _vgg_names(backbone)
    named = [layer for layer in backbone.layers if isinstance(layer, str)]
    found = {layer: index for layer in named if (index := known.get(layer, ("", None))[1]) is not None}
    return found if len(found) == len(set(named)) else {}


def module_name(backbone: Backbone, layer: Layer) -> str:
    """The module that a layer of a mixed list names."""
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
        raise refused(backbone, f"{backbone.model!r} has no layer {layer!r}; {nearest(layer, known)}")
    return known[layer][0] if known else layer


def _vgg_names(backbone: Backbone) -> dict[str, tuple[str, int | None]]:
    """The papers' names of a timm VGG: conv3_2 -> (its ReLU's module, its feature index or None), pool5."""
    if "vgg" not in backbone.model:
        return {}
    with torch.device("meta"):  # names and shapes, no values
        features = getattr(whole_model(backbone, num_classes=0), "features", None)
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
    backbone: Backbone, options: dict, layers: tuple, error: Exception | None = None
) -> ConfigurationError:
    """The error that names the layer that timm does not know, or why it cannot build the model at all."""
    try:
        infos = enumerate(create_model(backbone, options).feature_info.info)
        known = [str(info.get("index", number)) for number, info in infos]
    except Exception as failure:
        why = f"timm gives no feature maps of {backbone.model!r} by number ({' '.join(str(failure).split())[:120]})"
        return refused(backbone, f"{why}: name modules in layers = […]")
    unknown = [layer for layer in layers if str(layer) not in known]
    if not unknown and error is not None:
        why = f"timm cannot build {backbone.model!r} with options {backbone.options}"
        return refused(backbone, f"{why}: {' '.join(str(error).split())[:200]}")
    near = nearest(unknown[0], known)
    return refused(backbone, f"{backbone.model!r} has no layer {unknown[0]!r}; {near}")


def weights_file(backbone: Backbone) -> Path | None:
    """The local file of a backbone's weights: as configured, or of a registered model's own (the embedded backbone)."""
    check_model(backbone.model)
    if isinstance(backbone.weights, Path):
        return backbone.weights
    file = model_cfg(backbone).file
    return Path(file) if backbone.weights == "pretrained" and file else None


def source_state(backbone: Backbone) -> tuple[dict[str, Tensor], set[str], tuple[str, ...], list[str]]:
    """The whole model's state dict, every name it may hold, its classifier's prefixes, and notes for the user."""
    file = weights_file(backbone)
    classifier = model_cfg(backbone).classifier or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if file is not None:
        return read_state(file), _all_names(backbone), heads, []
    notes = []
    if backbone.weights == "random":
        with drawing():
            torch.manual_seed(RANDOM_SEED)
            state = whole_model(backbone).state_dict()
        notes = [f"{backbone.name}: weights are RANDOM (seed {RANDOM_SEED}), as written; scores mean nothing"]
    else:
        state = _from_hub(backbone).state_dict()
    return state, set(state), heads, notes


def _all_names(backbone: Backbone) -> set[str]:
    try:
        with torch.device("meta"):  # names and shapes, no values
            return set(whole_model(backbone).state_dict())
    except (RuntimeError, ValueError, TypeError):  # some models compute while they are built
        return set(whole_model(backbone).state_dict())


def _from_hub(backbone: Backbone) -> Any:
    cfg = model_cfg(backbone)
    if not (cfg.hf_hub_id or cfg.url or cfg.file):
        why = f"timm has no pretrained weights for {backbone.model!r}"
        raise refused(backbone, f'{why}: give a local file in weights = …, or weights = "random"')
    try:
        with _hub():
            return whole_model(backbone, pretrained=True)
    except ConfigurationError:
        raise
    except Exception as error:  # hub, HTTP, socket and cache errors have no common class
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise Top7Error(
            f"[[backbone]] {backbone.name}: the hub is out of reach: the pretrained weights of {backbone.model!r} "
            f"could not be fetched from {cfg.hf_hub_id or cfg.url} ({type(error).__name__}: {reason}): connect to "
            'the network, or download them elsewhere and write weights = "path/to/file.safetensors"'
        ) from error


@contextmanager
def _hub() -> Iterator[None]:
    """Where the hub's name cannot even be resolved, its cache is used at once, without minutes of retries."""
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    before = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
