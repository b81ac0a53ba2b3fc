"""timm networks: images (B, 3, H, W) -> the maps of the chosen layers, in one forward pass.

The network's own embeddings (`cls`, `head`) come from the same pass, as maps of one position behind the layers'.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from competition.configuration import Backbone
from competition.errors import ConfigurationError, nearest
from features.components import EMBEDDINGS
from features.networks.fused_convolutions import fuse_convolutions
from features.networks.timm_models import (
    Layer,
    create_model,
    drawing,
    model_cfg,
    module_name,
    no_such_layer,
    paper_indices,
    refused,
    source_state,
    whole_model,
)
from features.networks.weights import fit


class _Reached(Exception):
    """Ends a forward pass after the last layer wanted."""


@dataclass
class Network:
    """A backbone ready to run: `forward` maps normalised images (B, 3, H, W) to a list of maps (B, C, H, W).

    layers: what each of the maps is of; `cls` and `head`, where the backbone pools so, come last as (B, D, 1, 1).
    """

    module: nn.Module
    forward: Callable[[Tensor], list[Tensor]]
    layers: tuple[Layer, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transformer: bool
    notes: list[str] = field(default_factory=list)
    replaced: dict[str, nn.Module] = field(default_factory=dict)

    def fused(self, name: str) -> Network:
        """The same network on a CPU in fewer passes over the maps (`fusing`); changes the module itself."""
        if self.transformer:
            return self  # no batch norm follows its convolutions
        replaced, reason = fuse_convolutions(self.module, self.forward)
        slower = f"{name}: its convolutions run as timm has them, which is slower: {reason}"
        return replace(self, replaced=replaced, notes=self.notes + ([slower] if reason else []))

    def compiled(self) -> Network:
        """The same network; its forward pass is compiled at the first batch of each shape."""
        return replace(self, forward=torch.compile(self.forward, dynamic=False))


def create_network(backbone: Backbone) -> Network:
    """Build the timm model of `backbone` with its weights, in evaluation mode on the CPU.

    ConfigurationError: unknown model or layer, options that timm refuses. Top7Error: weights that do not fit,
    a hub that cannot be reached.
    """
    state, known, heads, notes = source_state(backbone)
    vgg = paper_indices(backbone)
    layers = tuple(vgg.get(layer, layer) if isinstance(layer, str) else layer for layer in backbone.layers)
    embeddings = tuple(name for name in EMBEDDINGS if name in backbone.pooling)
    with drawing():
        numbers = tuple(layer for layer in layers if isinstance(layer, int))
        if len(numbers) < len(layers):
            names = tuple(module_name(backbone, layer) for layer in layers)
            module, forward = _by_name(backbone, names, embeddings)
        elif embeddings:
            module, forward = _with_embeddings(backbone, numbers, embeddings)
        else:
            module, forward = _by_index(backbone, numbers)
    weights = backbone.weights
    source = str(weights) if isinstance(weights, Path) else f"weights = {weights!r}"
    fit(module, state, source=source, model=backbone.model, known=known, heads=heads)
    module.eval().requires_grad_(False)
    cfg = model_cfg(backbone)
    mean, std = backbone.mean or tuple(cfg.mean), backbone.std or tuple(cfg.std)
    if len(mean) != 3 or len(std) != 3:
        found = f"mean and std have {len(mean)} and {len(std)} values"
        raise refused(backbone, f"{found}: expected 3 each, for RGB images")
    transformer = any("Attention" in type(part).__name__ for part in module.modules())
    wanted = (*backbone.layers, *embeddings)
    return Network(module, forward, wanted, tuple(mean), tuple(std), transformer, notes)


def _by_index(backbone: Backbone, layers: tuple[int, ...]) -> tuple[nn.Module, Callable]:
    """timm's features_only: its wrapper for convolutional nets, forward_intermediates for transformers."""
    options = backbone.options | {"features_only": True}
    wanted = tuple(sorted(set(layers)))
    try:
        module = create_model(backbone, options | {"out_indices": wanted})
    except ConfigurationError:
        raise
    except Exception as error:
        raise no_such_layer(backbone, options, layers, error) from None
    order = [wanted.index(layer) for layer in layers]
    if len(wanted) != len(module.feature_info.out_indices):
        raise no_such_layer(backbone, options, layers)

    def forward(images: Tensor) -> list[Tensor]:
        maps = [_channels_first(found, module) for found in module(images)]
        return [maps[position] for position in order]

    return module, forward


def _channels_first(maps: Tensor, module: nn.Module) -> Tensor:
    """Return maps (B, C, H, W) whichever layout timm states for the network: its `output_fmt`, NCHW or NHWC."""
    return maps.permute(0, 3, 1, 2) if str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC") else maps


def _with_embeddings(
    backbone: Backbone, layers: tuple[int, ...], embeddings: tuple[str, ...]
) -> tuple[nn.Module, Callable]:
    """Maps by number and embeddings in one pass of the whole model, by timm's `forward_intermediates`."""
    module = whole_model(backbone, num_classes=0)
    if not hasattr(module, "forward_intermediates"):
        why = f"timm gives no maps of {backbone.model!r} by number beside {' and '.join(embeddings)}"
        raise refused(backbone, f"{why}: name modules in layers = […]")
    wanted = sorted(set(layers))
    known = len(module.feature_info)
    if wanted[-1] >= known:
        raise refused(backbone, f"{backbone.model!r} has no layer {wanted[-1]}; it has 0 to {known - 1}")
    embed = _embedder(backbone, module, embeddings)

    def forward(images: Tensor) -> list[Tensor]:
        final, found = module.forward_intermediates(images, indices=wanted, output_fmt="NCHW")
        return [found[wanted.index(layer)] for layer in layers] + embed(final)

    return module, forward


def _embedder(
    backbone: Backbone, module: Any, embeddings: tuple[str, ...]
) -> Callable[[Tensor], list[Tensor]]:
    """What makes the embeddings (B, D, 1, 1), the class token and timm's head before any classifier, of its features."""
    if "cls" in embeddings and getattr(module, "cls_token", None) is None:
        raise refused(backbone, f'{backbone.model!r} has no class token: take "head" for "cls" in pooling')
    if "head" in embeddings and not hasattr(module, "forward_head"):
        raise refused(backbone, f'{backbone.model!r} has no head of its own: leave "head" out of pooling')

    def embed(final: Tensor) -> list[Tensor]:
        given = {"cls": lambda: final[:, 0], "head": lambda: module.forward_head(final, pre_logits=True)}
        return [given[name]().flatten(1)[:, :, None, None] for name in embeddings]

    return embed


def _by_name(
    backbone: Backbone, names: tuple[str, ...], embeddings: tuple[str, ...]
) -> tuple[nn.Module, Callable]:
    """Forward hooks on named modules of the whole model; the pass ends at the last of them, or at the embeddings."""
    module = whole_model(backbone, num_classes=0)
    embed = _embedder(backbone, module, embeddings)
    if hasattr(module, "pre_logits") and "head" not in embeddings:
        module.pre_logits = nn.Identity()  # VGG's 4096-wide head is never run
    modules = dict(module.named_modules())
    for name in names:
        if name not in modules or not name:
            near = nearest(name, [known for known in modules if known])
            raise refused(backbone, f"{backbone.model!r} has no layer {name!r}; {near}")
    for part in modules.values():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # a later layer would overwrite the maps
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                why = f"the layer {name!r} gives {shape}, expected maps (B, C, H, W)"
                raise refused(backbone, f"{why}: choose a layer before the head")
            kept[name] = _channels_first(output, module)
            if len(kept) == len(set(names)) and not embeddings:
                raise _Reached

        return hook

    for name in set(names):
        modules[name].register_forward_hook(keep(name))

    def forward(images: Tensor) -> list[Tensor]:
        kept.clear()
        final = images
        with contextlib.suppress(_Reached):
            final = module.forward_features(images)
        if absent := [name for name in names if name not in kept]:
            why = f"the layer {absent[0]!r} of {backbone.model!r} is never run on the way to the features"
            raise refused(backbone, f"{why}: choose an earlier one")
        maps = [kept[name] for name in names]
        kept.clear()
        return maps + embed(final)

    return module, forward
