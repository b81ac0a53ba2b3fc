"""Pooled maps as unit rows: normalised, mean_descriptors over views, and which of them are finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def unit_descriptors(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) float32 divided by their L2 norms, and the norms (B,), on the tensor's device.

    Sums in float64; a zero row stays zero.
    """
    norms = rows.double().square().sum(1).sqrt()
    unit = rows.double() / torch.where(norms > 0, norms, 1)[:, None]
    return unit.float(), norms.float()


def mean_descriptors(
    rows: Sequence[Sequence[np.ndarray]], norms: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Views of unit rows -> their mean as unit rows, for each target; and the mean of the norms."""
    if len(rows) == 1:
        return list(rows[0]), norms[0]
    means = [unit_descriptors(torch.from_numpy(np.sum(views, axis=0)))[0].numpy() for views in zip(*rows)]
    return means, np.asarray(np.mean(norms, axis=0, dtype=np.float64), dtype=np.float32)


def finite_images(maps: Sequence[Tensor]) -> Tensor:
    """Which images have finite values throughout, (B,) bool: a sum is finite only if its terms are."""
    sums = torch.stack([found.sum((1, 2, 3)) for found in maps])
    finite = torch.isfinite(sums).all(0)
    if finite.all():
        return finite
    return torch.stack([torch.isfinite(found).flatten(1).all(1) for found in maps]).all(0)
