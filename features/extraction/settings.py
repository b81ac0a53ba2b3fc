"""How a backbone is run: fixed at its first run and kept under `work`, so that later runs give the same
bytes.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from competition.atomic import write_json
from competition.configuration import Backbone, Configuration
from competition.errors import ConfigurationError, Top7Error
from features.dumps import file_label, recipe_digest

BATCH_PIXELS = 410_000  # on a CPU small batches stay in the caches
WINDOW_ROWS = 256


@dataclass(frozen=True)
class Settings:
    """device: cpu | cuda; threads: torch threads on the CPU; precision: of the network alone; rows in a batch
    and in a window, the unit that is journalled and repaired."""

    device: str
    threads: int
    precision: str
    memory_format: str
    batch_rows: int
    window_rows: int
    torch: str

    @property
    def decode_threads(self) -> int:
        """Threads that decode images: those of the network on the CPU, beside a GPU every core."""
        return self.threads if self.device == "cpu" else available_cores()


def choose_device(wanted: str) -> str:
    """ "cpu" or "cuda" for "auto", "cpu", "cuda"; says aloud where "auto" ends on the CPU."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"unknown device {wanted!r}: expected auto, cpu or cuda")
    if torch.cuda.is_available():
        return "cpu" if wanted == "cpu" else "cuda"
    if wanted == "cuda":
        raise ConfigurationError(
            "--device cuda: torch finds no CUDA device on this machine: use --device auto or cpu"
        )
    if wanted == "auto":
        print("no CUDA device: extraction runs on the CPU in float32", file=sys.stderr)
    return "cpu"


def settings_path(configuration: Configuration, backbone: Backbone, recipe: dict) -> Path:
    name = f"{file_label(backbone.name)}-{recipe_digest(recipe)}.json"
    return Path(configuration.competition.work) / "dumps" / "settings" / name


def fixed_settings(path: Path, backbone: Backbone, device: str, *, threads: int | None = None) -> Settings:
    """The settings of the first run on this kind of device; chosen and written now if this is the first."""
    known = _read(path)
    if device in known:
        return Settings(**known[device])
    chosen = _chosen(backbone, device, threads)
    write_json(path, known | {device: asdict(chosen)})
    return chosen


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise Top7Error(
            f"{path}: not valid JSON: remove it; settings are then chosen anew, and rows computed from now "
            "on may differ from earlier ones in their last bits"
        ) from None


def _chosen(backbone: Backbone, device: str, threads: int | None) -> Settings:
    side = backbone.image_size or backbone.max_size
    if device == "cuda":
        return Settings("cuda", 1, "float16", "channels_last", 64, WINDOW_ROWS, torch.__version__)
    batch = 2
    while batch < 32 and 2 * batch * side * side <= BATCH_PIXELS:
        batch *= 2
    window = WINDOW_ROWS if side <= 512 else WINDOW_ROWS // 4
    return Settings(
        "cpu", threads or available_cores(), "float32", "channels_last", batch, window, torch.__version__
    )


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
