"""Convolution, batch norm and activation in one pass over the maps: the same network for a CPU, in fewer passes.

timm's networks run the three one after the other, and each reads and writes all maps. Batch norm in evaluation is a
factor and an offset of each channel, so it goes into the convolution's weights; the activation goes into oneDNN's
convolution, as `torch.compile` has it. What belongs together is read off one forward pass, not off names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from competition.errors import Top7Error

PROBE_SIDE_PX = 64
TOLERANCE = 1e-4  # of a layer's largest value; rounding alone gives some 1e-6
NO_FUSING = "this torch has no oneDNN convolutions with an operation after them"
Module = TypeVar("Module", bound=nn.Module)
# name, numbers and variant of oneDNN's operation after a convolution
AFTER: dict[type[nn.Module], tuple[str, list[float], str]] = {
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Hardswish: ("hardswish", [], ""),
    nn.Identity: ("none", [], ""),
}


class FusedConvolution(nn.Module):
    """A convolution with the batch norm and the activation that follow it; it keeps no state between calls."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None, activation: nn.Module) -> None:
        super().__init__()
        weight, bias = with_norm(convolution, norm)
        self.after = AFTER[type(activation)]
        self.kernel_size, self.stride = convolution.kernel_size, convolution.stride
        self.dilation, self.groups = convolution.dilation, convolution.groups
        self.same = isinstance(convolution, Conv2dSame)
        self.padding = (0, 0) if self.same else convolution.padding
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 -> (B, D, H', W') float32."""
        if self.same:
            images = pad_same(images, list(self.kernel_size), list(self.stride), list(self.dilation))
        return torch.ops.mkldnn._convolution_pointwise(
            images, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, *self.after
        )


def with_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, float32, of the convolution that gives what `norm` makes of `convolution`; in float64.

    y = g (W x + b - m) / s + o is the convolution g W / s with bias g (b - m) / s + o; m, s: running mean and standard
    deviation.
    """
    weight, bias = convolution.weight.detach(), convolution.bias
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return weight, None if bias is None else bias.detach()
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    offset = -norm.running_mean.double()
    if bias is not None:
        offset = offset + bias.detach().double()
    offset = offset * factor
    if norm.bias is not None:
        offset = offset + norm.bias.detach().double()
    return (weight.double() * factor.view(-1, 1, 1, 1)).float(), offset.float()


def can_fuse() -> bool:
    """Whether this torch has oneDNN's convolutions with an operation after them."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def fuse_convolutions(
    module: nn.Module, forward: Callable[[Tensor], list[Tensor]]
) -> tuple[dict[str, nn.Module], str | None]:
    """Put one module for each convolution with what follows it; ({name: module put there}, why nothing was put).

    module: in evaluation mode, float32, on the CPU; forward: runs it on (B, 3, H, W) and returns the maps wanted.
    """
    if not can_fuse():
        return {}, NO_FUSING
    images = torch.randn(1, 3, PROBE_SIDE_PX, PROBE_SIDE_PX, generator=torch.Generator().manual_seed(0))
    before: dict[str, nn.Module] = {}
    try:
        with torch.inference_mode():
            flow = _Flow(module, forward, images)
            replaced = flow.fused_modules()
            before = {name: module.get_submodule(name) for name in replaced}
            put(module, replaced)
            worst = largest_difference(flow.maps, forward(images))
        if worst <= TOLERANCE:
            return replaced, None
        reason = f"its maps would differ by {worst:.1e} of their largest value"
    except Top7Error:  # ends the program
        raise
    except Exception as error:  # a network may refuse the probe, or ask its norm for what is no longer there
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    put(module, before)
    return {}, reason


def largest_difference(maps: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference between two lists of maps, in shares of each map's largest value; NaN if one holds NaN."""
    return max(
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in zip(maps, others, strict=True)
    )


def put(module: nn.Module, replaced: dict[str, nn.Module]) -> None:
    """Put the modules where they belong; several networks may share them."""
    for name, new in replaced.items():
        module.set_submodule(name, new)


class _Flow:
    """What a forward pass does.

    modules: those called, by name; outputs: of their last call; calls: how often; readers: names of the modules that
    read a tensor, by its id; maps: what is returned.
    """

    def __init__(self, module: nn.Module, forward: Callable[[Tensor], list[Tensor]], images: Tensor) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.outputs: dict[str, object] = {}
        self.calls: Counter[str] = Counter()
        self.readers: dict[int, set[str]] = {}
        readers, inside, kept = self.readers, [""], list[object]()

        class Reads(TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                if getattr(function, "__name__", "") != "__get__":  # an attribute, such as the shape
                    for value in _tensors((args, kwargs or {})):
                        kept.append(value)  # alive, so that no other has its id
                        readers.setdefault(id(value), set()).add(inside[-1])
                return function(*args, **(kwargs or {}))

        def enter(name: str) -> Callable:
            return lambda *_: inside.append(name)

        def leave(name: str) -> Callable:
            def hook(called: nn.Module, _inputs: tuple, output: object) -> None:
                inside.pop()
                kept.append(output)
                self.modules[name], self.outputs[name] = called, output
                self.calls[name] += 1

            return hook

        own = [part for part in module.modules() if getattr(part, "inplace", False) is True]
        hooks = []
        for name, part in module.named_modules():
            hooks.append(part.register_forward_pre_hook(enter(name), prepend=True))
            hooks.append(part.register_forward_hook(leave(name), prepend=True))
        try:
            for part in own:
                setattr(part, "inplace", False)  # each result is a tensor of its own
            with Reads():
                self.maps = forward(images)
        finally:
            for part in own:
                setattr(part, "inplace", True)
            for hook in hooks:
                hook.remove()

    def fused_modules(self) -> dict[str, nn.Module]:
        """{name: what takes its place}."""
        replaced: dict[str, nn.Module] = {}
        for name in self.modules:
            convolution = self._plain(name, nn.Conv2d, Conv2dSame)
            if convolution is not None and _known(convolution):
                replaced |= self._chain(name, convolution)
        return replaced

    def _chain(self, name: str, convolution: nn.Conv2d) -> dict[str, nn.Module]:
        activation: nn.Module = nn.Identity()
        emptied: dict[str, nn.Module] = {}
        following = self._reader(name)
        norm = self._plain(following, nn.BatchNorm2d, BatchNormAct2d)
        if following is not None and norm is not None:
            if norm.running_mean is None:
                return {}
            emptied[following] = nn.Identity()
            if isinstance(norm, BatchNormAct2d):
                if not isinstance(norm.drop, nn.Identity):
                    return {}
                if type(norm.act) in AFTER:
                    activation = norm.act
                else:
                    emptied[following] = norm.act
                return {name: FusedConvolution(convolution, norm, activation), **emptied}
            following = self._reader(following)
        after = self._plain(following, *AFTER)
        if following is not None and after is not None:
            activation, emptied[following] = after, nn.Identity()
        return {name: FusedConvolution(convolution, norm, activation), **emptied} if emptied else {}

    def _plain(self, name: str | None, *types: type[Module]) -> Module | None:
        """The module, if it is of exactly these types and called once, and without hooks."""
        if name is None or self.calls[name] != 1:
            return None
        module = self.modules[name]
        if type(module) not in types or module._forward_hooks or module._forward_pre_hooks:
            return None
        return module if isinstance(module, types) else None

    def _reader(self, name: str) -> str | None:
        """The module that alone reads what `name` gives; None where several do, or where it is wanted itself."""
        output = self.outputs[name]
        readers = self.readers.get(id(output), set())
        wanted = any(output is found for found in self.maps)
        return next(iter(readers)) if len(readers) == 1 and not wanted else None


def _known(convolution: nn.Conv2d) -> bool:
    return (
        convolution.padding_mode == "zeros"
        and isinstance(convolution.padding, tuple)
        and convolution.weight.dtype == torch.float32
    )


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
