"""Which channels are part detectors, in which order, and which images they are learnt from.

The order is a small JSON file: {"layer", "selection", "seed", "order": [channels, best first], "variance": [...]}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from competition.atomic import write_json
from competition.errors import ConfigurationError, Top7Error

SELECTIONS = ("variance", "variance-mean", "random")  # or the path of an order file


def sample_rows(n_images: int, size: int, seed: int, readable: np.ndarray) -> np.ndarray:
    """Return the sorted int64 rows of the training sample: `size` of the readable images, all if there are fewer.

    readable: (n_images,) bool. Raises Top7Error where no image can be read.
    """
    candidates = np.flatnonzero(np.asarray(readable)[:n_images]).astype(np.int64)
    if len(candidates) == 0:
        raise Top7Error(f"part detectors: none of the {n_images} training images can be read")
    if len(candidates) <= size:
        return candidates
    return np.sort(np.random.default_rng(seed).choice(candidates, size=size, replace=False))


class SumVariance:
    """Variance over images of each channel's sum-pooled response, summed in float64; one pass (Chan's update).

    means: of its mean over positions, which ranks otherwise where image sizes differ (the paper's program takes sums).
    """

    def __init__(self, means: bool = False) -> None:
        self.count, self.mean, self.scatter, self.means = 0, 0.0, 0.0, means

    def add(self, maps: Tensor) -> None:
        """maps: (B, C, H, W) float32."""
        for image in maps:  # one by one: neither sums nor their order depend on the batches
            row = image.sum((1, 2)).double().cpu().numpy()
            if self.means:
                row = row / (image.shape[1] * image.shape[2])
            self.count += 1
            step = row - self.mean
            self.mean = self.mean + step / self.count
            self.scatter = self.scatter + step * (row - self.mean)

    def variance(self) -> np.ndarray:
        """(C,) float64."""
        return np.asarray(self.scatter / max(1, self.count))


def by_variance(variance: np.ndarray) -> np.ndarray:
    """Channels by decreasing variance, ties to the lower channel, (C,) int64."""
    return np.argsort(-variance, kind="stable").astype(np.int64)


def at_random(channels: int, seed: int) -> np.ndarray:
    """A seeded order of all channels, (C,) int64."""
    return np.random.default_rng(seed).permutation(channels).astype(np.int64)


def given(order: Iterable[int], channels: int, where: str) -> tuple[np.ndarray, int]:
    """Return (the given channels, then the others ascending) and how many were given; `where` names the source."""
    order = [int(channel) for channel in order]
    wrong = [channel for channel in order if not 0 <= channel < channels]
    if wrong or len(set(order)) != len(order) or not order:
        found = f"channel {wrong[0]}" if wrong else "a channel twice" if order else "no channel"
        raise ConfigurationError(
            f"{where}: the order of part detectors holds {found}; the layer has channels 0 to {channels - 1}"
        )
    rest = sorted(set(range(channels)) - set(order))
    return np.array(order + rest, dtype=np.int64), len(order)


def check_counts(counts: Iterable[int], channels: int, where: str) -> None:
    """Raise ConfigurationError for counts above `channels`, naming both."""
    above = [count for count in counts if count > channels]
    if above:
        raise ConfigurationError(
            f"{where}: counts {', '.join(map(str, above))} exceed the {channels} channels there are to choose part"
            f" detectors from: use at most {channels}"
        )


def write_order(path: Path, order: np.ndarray, variance: np.ndarray | None, about: dict) -> None:
    """Write the order file; variance: (C,) of the sum-pooled responses, where it was computed."""
    entry = {**about, "order": order.tolist()}
    if variance is not None:
        entry["variance"] = [float(f"{value:.6g}") for value in variance[order]]
    write_json(path, entry)


def read_order(path: Path) -> list[int]:
    """Read the channels of an order file; Top7Error where it is missing or none."""
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
        order = entry["order"] if isinstance(entry, dict) else entry
        if not all(isinstance(channel, int) and not isinstance(channel, bool) for channel in order):
            raise TypeError
        return list(order)
    except FileNotFoundError:
        raise Top7Error(f"{path}: no such file; expected the order of part detectors (JSON)") from None
    except (ValueError, KeyError, TypeError):
        raise Top7Error(
            f'{path}: not an order of part detectors: expected JSON with "order": [channel, …]'
        ) from None
