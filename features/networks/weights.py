"""Weights as named tensors: read from a file and fitted to a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from competition.errors import Top7Error

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file or a plain state dict (weights_only); floating-point tensors come as float32.

    Top7Error: no such file, neither format, something else than named tensors inside.
    """
    path = Path(path)
    if not path.is_file():
        raise Top7Error(
            f'{path}: no such weights file: give an existing file in weights = …, or "pretrained"'
        )
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling, zip and header errors of many classes
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise Top7Error(
            f"{path}: cannot be read as weights ({reason}): expected a safetensors file or a plain state "
            "dict that torch.load(weights_only=True) accepts"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(map(_has_values, state.values())):
        raise Top7Error(
            f"{path}: holds no state dict: expected named tensors, as model.state_dict() gives them"
        )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _has_values(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def fit(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    model: str,
    known: set[str],
    heads: tuple[str, ...],
) -> None:
    """Load `state` into `network`, a timm feature extractor whose names may be flattened or prefixed.

    known: every name of the whole model; heads: prefixes of its classifier, which may be absent or of another
    size. Top7Error: one line that counts and names what is missing, unexpected or of another shape.
    """
    by_plain_name = {plain_name(key): key for key in state}
    wanted = network.state_dict()
    missing, mismatched, loaded = [], [], {}
    for key, value in wanted.items():
        found = by_plain_name.get(plain_name(key.removeprefix("model.") if key not in state else key))
        if found is None:
            if not key.endswith("num_batches_tracked") and not key.removeprefix("model.").startswith(heads):
                missing.append(key)
        elif state[found].shape != value.shape:
            mismatched.append(f"{found} {tuple(state[found].shape)} instead of {tuple(value.shape)}")
        else:
            loaded[key] = state[found]
    names = {plain_name(key) for key in known}
    unexpected = [key for key in state if plain_name(key) not in names and not key.startswith(heads)]
    faults = {"missing": missing, "of another shape": mismatched, "unexpected": unexpected}
    counted = [f"{len(found)} {what} (such as {found[0]})" for what, found in faults.items() if found]
    if counted:
        raise Top7Error(
            f"{source}: does not fit the timm model {model!r}: of {len(wanted)} tensors "
            f"{', '.join(counted)}: give the weights of this model, or the model of these weights"
        )
    network.load_state_dict(loaded, strict=False)


def plain_name(key: str) -> str:
    """timm's feature wrappers write features.0.weight as features_0.weight."""
    return key.replace(".", "_")
