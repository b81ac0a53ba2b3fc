"""timm networks: images (B, 3, H, W) -> the maps of the chosen layers, in one forward pass."""

from __future__ import annotations

import difflib
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import timm
import torch
from torch import Tensor, nn

from competition.configuration import Backbone
from competition.errors import ConfigurationError, Top7Error, nearest
from features.weights import RANDOM_SEED, fit, read_state

try:
    import features.mini_backbone.model  # noqa: F401  registers top7_vgg16_quarter
except ModuleNotFoundError as absent:
    if not str(absent.name).startswith("features.mini_backbone"):
        raise

Layer = int | str
FEATURE_OPTIONS = ("features_only", "out_indices", "feature_location", "feature_cls", "output_stride")
PAPER_NAME = re.compile(r"conv(\d)_(\d)|pool(\d)")


class _Reached(Exception):
    """Ends a forward pass after the last layer wanted."""


@dataclass
class Network:
    """A backbone ready to run: `forward` maps normalised images (B, 3, H, W) to a list of maps (B, C, H,
    W).
    """

    module: nn.Module
    forward: Callable[[Tensor], list[Tensor]]
    layers: tuple[Layer, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transformer: bool
    notes: list[str] = field(default_factory=list)


def create_network(backbone: Backbone) -> Network:
    """Build the timm model of `backbone` with its weights, in evaluation mode on the CPU.

    ConfigurationError: unknown model or layer, options that timm refuses. Top7Error: weights that do not fit,
    a hub that cannot be reached.
    """
    state, known, heads, notes = source_state(backbone)
    vgg = _paper_indices(backbone)
    layers = tuple(vgg.get(layer, layer) for layer in backbone.layers)
    if all(isinstance(layer, int) for layer in layers):
        module, forward = _by_index(backbone, layers)
    else:
        module, forward = _by_name(backbone, tuple(_module_name(backbone, layer) for layer in layers))
    source = (
        str(backbone.weights) if isinstance(backbone.weights, Path) else f"weights = {backbone.weights!r}"
    )
    fit(module, state, source=source, model=backbone.model, known=known, heads=heads)
    module.eval().requires_grad_(False)
    cfg = _cfg(backbone)
    mean, std = backbone.mean or tuple(cfg.mean), backbone.std or tuple(cfg.std)
    if len(mean) != 3 or len(std) != 3:
        raise ConfigurationError(
            f"[[backbone]] {backbone.name}: mean and std have {len(mean)} and {len(std)} values: "
            "expected 3 each, for RGB images"
        )
    transformer = any("Attention" in type(part).__name__ for part in module.modules())
    return Network(module, forward, tuple(backbone.layers), tuple(mean), tuple(std), transformer, notes)


def check_model(model: str) -> None:
    """Raise ConfigurationError with the nearest known name unless timm knows `model`."""
    if not timm.is_model(model.split(".")[0]):
        near = difflib.get_close_matches(model, timm.list_models(), n=5)
        raise ConfigurationError(
            f"unknown timm model {model!r}; "
            + (nearest(model, near) if near else "timm.list_models() gives the known ones")
        )


def own_file(backbone: Backbone) -> Path | None:
    """The local file that a registered model's own pretrained weights lie in (the embedded backbone), if
    any.
    """
    check_model(backbone.model)
    file = getattr(_cfg(backbone), "file", None)
    return Path(file) if backbone.weights == "pretrained" and file else None


def source_state(backbone: Backbone) -> tuple[dict[str, Tensor], set[str], tuple[str, ...], list[str]]:
    """The whole model's state dict, every name it may hold, its classifier's prefixes, and notes to say
    aloud.
    """
    check_model(backbone.model)
    classifier = getattr(_cfg(backbone), "classifier", None) or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    file = backbone.weights if isinstance(backbone.weights, Path) else own_file(backbone)
    if file is not None:
        state = read_state(file)
        return state, _all_names(backbone), heads, []
    if backbone.weights == "random":
        torch.manual_seed(RANDOM_SEED)
        model = _create(backbone, _whole_options(backbone))
        note = f"{backbone.name}: weights are RANDOM (seed {RANDOM_SEED}), as written; scores mean nothing"
        return model.state_dict(), set(model.state_dict()), heads, [note]
    model = _from_hub(backbone)
    return model.state_dict(), set(model.state_dict()), heads, []


def _cfg(backbone: Backbone):
    return timm.get_pretrained_cfg(backbone.model) or timm.models.PretrainedCfg(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


def _whole_options(backbone: Backbone) -> dict:
    return {key: value for key, value in backbone.options.items() if key not in FEATURE_OPTIONS}


def _all_names(backbone: Backbone) -> set[str]:
    try:
        with torch.device("meta"):
            return set(_create(backbone, _whole_options(backbone)).state_dict())
    except (
        NotImplementedError,
        RuntimeError,
        ValueError,
        TypeError,
    ):  # some models compute while they are built
        return set(_create(backbone, _whole_options(backbone)).state_dict())


def _from_hub(backbone: Backbone) -> nn.Module:
    cfg = _cfg(backbone)
    if not (cfg.hf_hub_id or cfg.url or cfg.file):
        raise ConfigurationError(
            f"[[backbone]] {backbone.name}: timm has no pretrained weights for {backbone.model!r}: "
            'give a local file in weights = …, or weights = "random"'
        )
    try:
        with _hub():
            return _create(backbone, _whole_options(backbone) | {"pretrained": True})
    except ConfigurationError:
        raise
    except Exception as error:  # hub, HTTP, socket and cache errors have no common class
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise Top7Error(
            f"[[backbone]] {backbone.name}: the hub is out of reach: the pretrained weights of "
            f"{backbone.model!r} "
            f"could not be fetched from {cfg.hf_hub_id or cfg.url} ({type(error).__name__}: {reason}): "
            f"connect to "
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


def _create(backbone: Backbone, options: dict) -> nn.Module:
    logging.getLogger("timm").setLevel(logging.ERROR)
    options = dict(options)
    if not {"img_size", "dynamic_img_size"} & set(options):
        options["dynamic_img_size"] = True  # transformers take any size with the weights as they are
    while True:
        try:
            return timm.create_model(backbone.model, **options)
        except TypeError as error:
            if "dynamic_img_size" in str(error) and "dynamic_img_size" not in backbone.options:
                options.pop("dynamic_img_size")
                if _fixed_size(backbone) and backbone.resize != "keep":
                    options["img_size"] = backbone.image_size
                continue
            if "unexpected keyword argument" in str(error):
                raise ConfigurationError(
                    f"[[backbone]] {backbone.name}: timm's {backbone.model!r} refuses the options "
                    f"{backbone.options}: {error}"
                ) from None
            raise


def _fixed_size(backbone: Backbone) -> bool:
    return (
        bool(getattr(_cfg(backbone), "fixed_input_size", False))
        and _cfg(backbone).input_size[-1] != backbone.image_size
    )


def _by_index(backbone: Backbone, layers: tuple[int, ...]) -> tuple[nn.Module, Callable]:
    """timm's features_only: its own wrapper for convolutional nets, forward_intermediates for
    transformers.
    """
    options = backbone.options | {"features_only": True}
    wanted = tuple(sorted(set(layers)))
    try:
        module = _create(backbone, options | {"out_indices": wanted})
    except ConfigurationError:
        raise
    except Exception as error:
        raise _no_such_layer(backbone, options, layers, error) from None
    order = [wanted.index(layer) for layer in layers]
    if len(set(wanted)) != len(module.feature_info.out_indices) or min(wanted) < 0:
        raise _no_such_layer(backbone, options, layers, None)
    channels = module.feature_info.channels()

    def forward(images: Tensor) -> list[Tensor]:
        maps = [
            found if found.shape[1] == width else found.permute(0, 3, 1, 2)  # some networks give NHWC
            for found, width in zip(module(images), channels, strict=True)
        ]
        return [maps[position] for position in order]

    return module, forward


def _no_such_layer(
    backbone: Backbone, options: dict, layers: tuple, error: Exception | None
) -> ConfigurationError:
    try:
        known = [
            str(info["index"]) for info in _create(backbone, options).feature_info.info if "index" in info
        ]
        known = known or [str(n) for n in range(len(_create(backbone, options).feature_info.info))]
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


def _by_name(backbone: Backbone, names: tuple[str, ...]) -> tuple[nn.Module, Callable]:
    """Forward hooks on named modules of the whole model; the pass ends at the last of them."""
    module = _create(backbone, _whole_options(backbone) | {"num_classes": 0})
    if hasattr(module, "pre_logits"):
        module.pre_logits = nn.Identity()  # VGG's 4096-wide head is never run
    modules = dict(module.named_modules())
    for name in names:
        if name not in modules or not name:
            raise ConfigurationError(
                f"[[backbone]] {backbone.name}: {backbone.model!r} has no layer {name!r}; "
                f"{nearest(name, [known for known in modules if known])}"
            )
    for part in modules.values():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # a later layer would overwrite the maps
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ConfigurationError(
                    f"[[backbone]] {backbone.name}: the layer {name!r} gives {shape}, expected maps "
                    "(B, C, H, W): choose a layer before the head"
                )
            kept[name] = output
            if len(kept) == len(set(names)):
                raise _Reached

        return hook

    for name in set(names):
        modules[name].register_forward_hook(keep(name))

    def forward(images: Tensor) -> list[Tensor]:
        kept.clear()
        try:
            module.forward_features(images)
        except _Reached:
            pass
        if absent := [name for name in names if name not in kept]:
            raise ConfigurationError(
                f"[[backbone]] {backbone.name}: the layer {absent[0]!r} of {backbone.model!r} is "
                "never run on the way to the features: choose an earlier one"
            )
        maps = [kept[name] for name in names]
        kept.clear()
        return maps

    return module, forward


def _vgg_names(backbone: Backbone) -> dict[str, tuple[str, int | None]]:
    """The papers' names of a timm VGG: conv3_2 -> (its ReLU's module, its feature index or None), pool5."""
    if "vgg" not in backbone.model:
        return {}
    with torch.device("meta"):
        features = _create(backbone, _whole_options(backbone) | {"num_classes": 0}).features
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


def _paper_indices(backbone: Backbone) -> dict[str, int]:
    """Feature indices of the papers' names, if every layer has one: then timm's truncated network is
    enough.
    """
    if not any(isinstance(layer, str) and PAPER_NAME.fullmatch(layer) for layer in backbone.layers):
        return {}
    known = _vgg_names(backbone)
    found = {layer: known.get(layer, (None, None))[1] for layer in backbone.layers if isinstance(layer, str)}
    return {} if None in found.values() else found


def _module_name(backbone: Backbone, layer: Layer) -> str:
    """The module that a layer of a mixed list stands for."""
    if isinstance(layer, int):
        options = backbone.options | {"features_only": True}
        try:
            info = _create(backbone, options).feature_info.info[layer]
        except Exception as error:
            raise _no_such_layer(backbone, options, (layer,), error) from None
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
