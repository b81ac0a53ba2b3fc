"""timm networks: images (B, 3, H, W) -> the maps of the chosen layers, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from competition.configuration import Backbone
from competition.errors import ConfigurationError, nearest
from features.fusing import fuse
from features.layers import Layer, module_name, no_such_layer, paper_indices
from features.models import create_model, drawing, model_cfg, source_state, whole_options
from features.weights import fit


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
    replaced: dict[str, nn.Module] = field(default_factory=dict)

    def fused(self, name: str) -> Network:
        """The same network on a CPU in fewer passes over the maps (`fusing`); changes the module itself."""
        if self.transformer:
            return self  # no batch norm follows its convolutions
        replaced, reason = fuse(self.module, self.forward)
        notes = (
            [f"{name}: its convolutions run as timm has them, which is slower: {reason}"] if reason else []
        )
        return replace(self, replaced=replaced, notes=self.notes + notes)

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
    layers = tuple(vgg.get(layer, layer) for layer in backbone.layers)
    with drawing():
        if all(isinstance(layer, int) for layer in layers):
            module, forward = _by_index(backbone, layers)
        else:
            module, forward = _by_name(backbone, tuple(module_name(backbone, layer) for layer in layers))
    source = (
        str(backbone.weights) if isinstance(backbone.weights, Path) else f"weights = {backbone.weights!r}"
    )
    fit(module, state, source=source, model=backbone.model, known=known, heads=heads)
    module.eval().requires_grad_(False)
    cfg = model_cfg(backbone)
    mean, std = backbone.mean or tuple(cfg.mean), backbone.std or tuple(cfg.std)
    if len(mean) != 3 or len(std) != 3:
        raise ConfigurationError(
            f"[[backbone]] {backbone.name}: mean and std have {len(mean)} and {len(std)} values: "
            "expected 3 each, for RGB images"
        )
    transformer = any("Attention" in type(part).__name__ for part in module.modules())
    return Network(module, forward, tuple(backbone.layers), tuple(mean), tuple(std), transformer, notes)


def _by_index(backbone: Backbone, layers: tuple[int, ...]) -> tuple[nn.Module, Callable]:
    """timm's features_only: its own wrapper for convolutional nets, forward_intermediates for
    transformers.
    """
    options = backbone.options | {"features_only": True}
    wanted = tuple(sorted(set(layers)))
    try:
        module = create_model(backbone, options | {"out_indices": wanted})
    except ConfigurationError:
        raise
    except Exception as error:
        raise no_such_layer(backbone, options, layers, error) from None
    order = [wanted.index(layer) for layer in layers]
    if len(set(wanted)) != len(module.feature_info.out_indices) or min(wanted) < 0:
        raise no_such_layer(backbone, options, layers, None)
    channels = module.feature_info.channels()

    def forward(images: Tensor) -> list[Tensor]:
        maps = [
            found if found.shape[1] == width else found.permute(0, 3, 1, 2)  # some networks give NHWC
            for found, width in zip(module(images), channels, strict=True)
        ]
        return [maps[position] for position in order]

    return module, forward


def _by_name(backbone: Backbone, names: tuple[str, ...]) -> tuple[nn.Module, Callable]:
    """Forward hooks on named modules of the whole model; the pass ends at the last of them."""
    module = create_model(backbone, whole_options(backbone) | {"num_classes": 0})
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
