"""What a parts table asks for: readings of the paper by name, channels and their order, images to learn from.

The order is a small JSON file: {"layer", "selection", "seed", "order": [channels, best first], "variance": [...]}.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from competition.atomic import write_json
from competition.configuration import Parts
from competition.errors import ConfigurationError, nearest
from features.dumps.part_tables import selection_key

FORMS = ("NxC", "NxN")


@dataclass(frozen=True)
class Variant:
    """A reading of the paper.

    root: the exponent 1/alpha in eq. 2; centred: the mean is subtracted before eq. 4; power: of the exponent (2:
    eigenvalues in place of singular values); shrunk: Ledoit-Wolf before whitening.
    """

    root: bool = True
    centred: bool = True
    power: float = 1.0
    shrunk: bool = False


# the last L2, which eq. 4 lacks, is in all of them: dumps are unit rows and scores are cosines
VARIANTS = {
    "default": Variant(),
    "printed-weights": Variant(root=False),
    "uncentred": Variant(centred=False),
    "eigenvalues": Variant(power=2.0),
    "printed": Variant(root=False, centred=False),
    "ledoit-wolf": Variant(shrunk=True),
}


def check_parts(parts: Parts, where: str) -> None:
    """Raise ConfigurationError for an unknown form or variant; `where` names the table."""
    if parts.form not in FORMS:
        raise ConfigurationError(f"{where}: unknown form {parts.form!r}: {nearest(parts.form, FORMS)}")
    if parts.variant not in VARIANTS:
        raise ConfigurationError(
            f"{where}: unknown variant {parts.variant!r}: {nearest(parts.variant, VARIANTS)}"
        )
    possible = parts.training_images - VARIANTS[parts.variant].centred
    if max(parts.dims) > possible:
        raise beyond_rank(where, max(parts.dims), possible, f"training_images = {parts.training_images}")
    selection_key(parts)


def beyond_rank(where: str, dims: int, rank: int, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{where}: dims holds {dims}, but {what} give {rank} dimensions: ask for at most {rank}, or raise training_images"
    )


def training_rows(parts: Parts, n_images: int) -> np.ndarray:
    """Return the sorted int64 rows of the training sample among `n_images`, by seed; all if there are fewer than wanted."""
    if n_images <= parts.training_images:
        return np.arange(n_images)
    return np.sort(
        np.random.default_rng(parts.seed).choice(n_images, size=parts.training_images, replace=False)
    )


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


def write_order(path: Path, order: np.ndarray, variance: np.ndarray, about: dict) -> None:
    """Write the order file; variance: (C,) of the sum-pooled responses."""
    variances = [float(f"{value:.6g}") for value in variance[order]]
    write_json(path, {**about, "order": order.tolist(), "variance": variances})
