"""What poolings need of maps: each statistic is computed when it is first asked for, from a few images at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from features.regions import region_maxima, row_bands

GROUP_BYTES = 2**22  # maps read together on a CPU: fewer calls, still in the caches
ALIGNMENT_BYTES = 64  # matrix products round by address: an image must lie as it would alone


def groups_of(maps: Tensor) -> tuple[Tensor, ...]:
    """Split maps (B, C, H, W), B > 0, into runs of images to be read together: on a GPU all of them."""
    image_bytes = maps[0].numel() * maps.element_size()
    return maps.split(len(maps) if maps.is_cuda else max(1, GROUP_BYTES // image_bytes))


class MapStatistics:
    """Statistics of maps (B, C, H, W) float32, P = H * W positions; each image is reduced on its own.

    scratch: at least B * C * P floats to write in. `flat` is (B, C, P), a view with strides (…, P, 1), or (…, 1, C) for
    channels-last memory.
    """

    def __init__(self, maps: Tensor, scratch: Tensor) -> None:
        self.maps, (self.height, self.width) = maps, maps.shape[2:]
        count, channels, positions = len(maps), maps.shape[1], self.height * self.width
        scratch = scratch[: maps.numel()]
        self.channels_last = not maps.is_contiguous()  # strides say nothing: a map of one position has both
        if not self.channels_last:
            self.flat, self.scratch = maps.flatten(2), scratch.view(count, channels, positions)
        else:
            self.flat = maps.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
            self.scratch = scratch.view(count, positions, channels).transpose(1, 2)

    @cached_property
    def average(self) -> Tensor:
        """Over positions, (B, C)."""
        return self.flat.sum(2) / self.flat.shape[2]

    @cached_property
    def maximum(self) -> Tensor:
        """Over positions, (B, C)."""
        return self.flat.amax(2)

    @cached_property
    def summed(self) -> Tensor:
        """S' of eq. 1 of Wang et al. 2020: over channels, (B, P)."""
        return self.flat.sum(1)

    @cached_property
    def active(self) -> Tensor:
        """The number of positive responses of each channel, (B, C) float64, exact, for maps without negatives."""
        return torch.sign(self.flat, out=self.scratch).sum(2).double()

    @cached_property
    def weighted(self) -> Tensor:
        """Sum over positions of S f_j, (B, C), with S = (S' / ||S'||_2)^1/2 (eq. 1; CroW with a = b = 2)."""
        norms = torch.stack([row.norm() for row in self.summed])[:, None]
        return self._weighted_by((self.summed / torch.where(norms > 0, norms, 1)).sqrt())

    @cached_property
    def centred(self) -> Tensor:
        """Average weighted by the centre prior, (B, C)."""
        prior = centre_prior(self.height, self.width).to(self.flat.device)
        return self._weighted_by(prior.expand(len(self.flat), -1))

    def _weighted_by(self, spatial: Tensor) -> Tensor:
        """Sum over positions of f times `spatial` (B, P): (B, C)."""
        if self.flat.is_cuda:
            return torch.matmul(self.flat, spatial[:, :, None]).squeeze(2)
        return torch.stack([torch.mv(aligned(f), aligned(s)) for f, s in zip(self.flat, spatial)])

    def power(self, exponent: float) -> Tensor:
        """The power mean (B, C) of any exponent; in float64, where no power of a float32 is too large."""
        means = by_row(lambda image: image.double().pow(exponent).mean(-1), self.flat)
        return by_row(lambda row: row.pow(1 / exponent), means).float()

    @cached_property
    def power_mean(self) -> Tensor:
        """The power mean (B, C) of exponent 3."""
        cubes = torch.pow(self.flat, 3, out=self.scratch)  # f * f * f, in one pass
        return by_row(lambda row: row.pow(1 / 3), cubes.sum(2) / self.flat.shape[2])

    @cached_property
    def attended_maximum(self) -> Tensor:
        """Maximum (B, C) with zero where the summed map is below its mean."""
        attended = torch.stack([row >= row.double().mean() for row in self.summed])
        return torch.stack(
            [
                f.amax(1) if inside.all() else f[:, inside].amax(1).clamp(min=0)
                for f, inside in zip(self.flat, attended)
            ]
        )

    @cached_property
    def regions(self) -> Tensor:
        """L2-normalised maximum of each R-MAC region, (B, R, C)."""
        maxima = region_maxima(
            row_bands(self.maps), self.height, self.width, channels_last=self.channels_last
        )
        return unit_vectors(maxima)


def by_row(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`function` of each row (B, …) apart: powers and logarithms round by an element's place among all of them."""
    return function(rows) if rows.is_cuda else torch.stack([function(row) for row in rows])


def attention(summed: Tensor) -> Tensor:
    """Positions (B, P) bool where the summed map (B, P) exceeds its mean."""
    threshold = by_row(lambda row: row.double().mean(-1, keepdim=True), summed)
    return summed > threshold * (1 + 1e-6)  # a constant map must not exceed its own mean by a rounding error


def centre_prior(height: int, width: int) -> Tensor:
    """Return the weight of each position, (P,) float32 of sum 1: a Gaussian around the centre of the map.

    Babenko and Lempitsky 2015, eq. 5: sigma is a third of the distance between the centre and the nearest border.
    """
    y, x = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in (height, width))
    sigma = min(height, width) / 2 / 3
    weights = torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2)).flatten()
    return (weights / weights.sum()).float()


def raised_attention(summed: Tensor, power: float) -> Tensor:
    """Positions (B, P) bool where the summed map, above its minimum, exceeds the power mean of what is above it."""
    above = summed.double() - summed.double().amin(-1, keepdim=True)
    threshold = by_row(lambda row: row.pow(power).mean(-1, keepdim=True).pow(1 / power), above)
    return above > threshold * (1 + 1e-6)


def unit_vectors(rows: Tensor) -> Tensor:
    """Rows (..., C) divided by their L2 norm; a zero row stays zero."""
    norms = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def aligned(values: Tensor) -> Tensor:
    """Return the values at an address that ALIGNMENT_BYTES divides, copied if need be."""
    return values if values.data_ptr() % ALIGNMENT_BYTES == 0 else values.clone()
