"""How a backbone is run: fixed at its first run and kept under `work`, so that later runs give the same bytes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch

from competition.configuration import Backbone
from competition.errors import ConfigurationError, Top7Error
from competition.messages import log
from features.dumps import file_label, recipe_digest
from features.dumps.disk import Disk

BATCH_PIXELS = 410_000  # on a CPU small batches stay in the caches
WINDOW_ROWS = 256
KEPT_ROWS = 2  # of a batch on a CPU where shapes differ: as fast as 8, and few slots stay blank
MOST_AT_ONCE = 16  # batches side by side on a CPU: more would wait for the interpreter's lock
STREAMS = 2  # on a GPU one batch is copied while another runs
GPU_BYTES_A_PIXEL = 4096  # VGG16, the widest common network: maps in half precision, pooled ones in float32
GPU_MOST_ROWS = 256


@dataclass(frozen=True)
class Settings:
    """What an image's bytes may depend on beside its recipe.

    device: cpu | cuda; threads: torch threads on the CPU; precision: of the network alone; rows in a batch and in a
    window, the unit that is journalled and repaired. batch_threads: threads of one batch, of which
    threads // batch_threads are computed side by side (None, in older files: all threads, one batch at a time).
    compiled: whether `torch.compile` makes the network's forward pass (None: not asked); fused: whether convolutions
    run with what follows them (None, in older files: no).
    """

    device: str
    threads: int
    precision: str
    memory_format: str
    batch_rows: int
    window_rows: int
    torch: str
    batch_threads: int | None = None
    compiled: bool | None = None
    fused: bool | None = None

    @property
    def at_once(self) -> int:
        """Batches computed side by side; the bytes of the results do not depend on it."""
        if self.device == "cuda":
            return STREAMS
        return max(1, self.threads // (self.batch_threads or self.threads))

    @property
    def decode_threads(self) -> int:
        """Threads that decode images: those of the network on the CPU, beside a GPU every core."""
        return self.threads if self.device == "cpu" else available_cores()


def choose_device(wanted: str) -> str:
    """ "cpu" or "cuda" for "auto", "cpu", "cuda"; says so where "auto" ends on the CPU."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"unknown device {wanted!r}: expected auto, cpu or cuda")
    if torch.cuda.is_available():
        return "cpu" if wanted == "cpu" else "cuda"
    if wanted == "cuda":
        raise ConfigurationError(
            "--device cuda: torch finds no CUDA device on this machine: use --device auto or cpu"
        )
    if wanted == "auto":
        log.info("no CUDA device: extraction runs on the CPU in float32")
    return "cpu"


def settings_path(work: Path | str, backbone: Backbone, recipe: dict) -> Path:
    """The file of a backbone's settings; recipe: its `backbone_recipe`."""
    name = f"{file_label(backbone.name)}-{recipe_digest(recipe)}.json"
    return Path(work) / "dumps" / "settings" / name


def fixed_settings(
    path: Path, backbone: Backbone, device: str, *, threads: int | None = None, keep: bool = True
) -> Settings:
    """The settings of the first run on this kind of device; chosen, and written if `keep`, if this is the first."""
    if (known := _read(path).get(device)) is not None:
        return known
    chosen = _chosen(backbone, device, threads)
    return keep_settings(path, chosen) if keep else chosen


def keep_settings(path: Path, settings: Settings) -> Settings:
    """Write `settings` as those of their kind of device, and return them."""
    known = {device: asdict(kept) for device, kept in (_read(path) | {settings.device: settings}).items()}
    Disk().write_file(path, json.dumps(known, indent=1, sort_keys=True).encode() + b"\n")
    return settings


def _read(path: Path) -> dict[str, Settings]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Settings])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError:
        raise Top7Error(
            f"{path}: damaged: remove it and run the same command again; settings are then chosen again, and rows "
            "computed from now on may differ from earlier ones in their last bits"
        ) from None


def _chosen(backbone: Backbone, device: str, threads: int | None) -> Settings:
    side = backbone.image_size or backbone.max_size
    if device == "cuda":
        rows = gpu_rows(side, torch.cuda.mem_get_info()[1])
        return Settings("cuda", 1, "float16", "channels_last", rows, WINDOW_ROWS, torch.__version__)
    batch = KEPT_ROWS
    while backbone.resize != "keep" and batch < 32 and 2 * batch * side * side <= BATCH_PIXELS:
        batch *= 2
    window = WINDOW_ROWS if side <= 512 else WINDOW_ROWS // 4
    cores, version = threads or available_cores(), torch.__version__
    one = -(-cores // MOST_AT_ONCE)
    return Settings("cpu", cores, "float32", "channels_last", batch, window, version, one, fused=True)


def gpu_rows(side_px: int, memory_bytes: int) -> int:
    """Images in a batch on a GPU: the power of two that half its memory holds, for the widest networks.

    A rule, not a timing: two first runs on the same machine must choose alike. Where it is too much for a
    network, the batch is halved.
    """
    fits = memory_bytes // 2 // (STREAMS * GPU_BYTES_A_PIXEL * side_px * side_px)
    return min(GPU_MOST_ROWS, 1 << max(0, fits.bit_length() - 1))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
