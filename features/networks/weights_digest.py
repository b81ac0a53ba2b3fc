"""The digest by which every recipe names a backbone's weights, and digests of files, each read once while it stays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from competition.atomic import write_json
from competition.configuration import Backbone
from competition.errors import ConfigurationError, Top7Error

REMEMBERED = "weights.json"


def weights_digest(backbone: Backbone, work: Path) -> str:
    """The digest by which every recipe names a backbone's weights.

    Local file: that of the file, or of the one it was made from (`noted_digest`). Hub and random: that of the
    whole model's state dict, remembered under `work` so that later commands need neither the hub nor the
    network.
    """
    from features.networks.timm_models import source_state, weights_file  # `recipes` does without

    if (file := weights_file(backbone)) is not None:
        return noted_digest(file) or stamped_digest(file)
    key = json.dumps([backbone.model, backbone.weights, backbone.options], sort_keys=True, default=str)
    path = Path(work) / REMEMBERED
    try:
        remembered = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remembered = {}
    except ValueError:
        raise Top7Error(f"{path}: not valid JSON: remove the file, it is written again") from None
    if key not in remembered:
        remembered[key] = {"digest": state_digest(source_state(backbone)[0])}
        write_json(path, remembered)
    return remembered[key]["digest"]


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of a state dict, sorted by name."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def stamped_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; read once for a size and time of change."""
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(
            f'{path}: no such weights file: give an existing file in weights = …, or "pretrained"'
        )
    stamp = os.stat(path)
    return _file_digest(os.fspath(path), stamp.st_size, stamp.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_note(weights: Path) -> Path:
    """The note beside a file of a bundle's weights: which digest they had where they came from."""
    return Path(weights).with_name(Path(weights).name + ".stands-for.json")


def noted_digest(weights: Path) -> str | None:
    """The digest that the note beside `weights` gives, None without one; the file itself is not read."""
    try:
        note = json.loads(digest_note(weights).read_text(encoding="utf-8"))
        fits = note["bytes"] == os.path.getsize(weights)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise Top7Error(
            f"{digest_note(weights)}: does not belong to the weights beside it: make the bundle again"
        )
    return note["digest"]
