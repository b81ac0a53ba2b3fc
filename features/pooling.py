"""Pooling: the maps of one layer -> one descriptor an image, before L2 normalisation.

Each pooling is a function of maps (B, C, H, W) float32 that returns (B, C) float32. They share what they need
(`MapStatistics`), so that `pool_maps` reads the maps a few times however many poolings are asked for. Each image is
reduced on its own, in the memory layout it has (contiguous or channels-last, neither is copied): its result does not
depend on the batch it came in.

Variants of FCroW, measured beside eq. 2 as printed: `fcrow-sums` takes x_j as the sum of the values,
`fcrow-outside` adds the zero term outside the logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from competition.errors import ConfigurationError, Top7Error, nearest

GRMAC_POWER = 3.0  # the exponent was not published; GeM's is our choice
SCALES = 3
OVERLAP = 0.4
ATTENDED_SHARE = 1 / 3
CACHED_BYTES = 2**20
ALIGNMENT_BYTES = 64  # matrix products round by address: an image must lie as it would alone


class MapStatistics:
    """What poolings need of the maps of one image, each computed at most once; maps (C, H, W) float32.

    `flat` is (C, P) with P = H * W positions: a view with strides (P, 1), or (1, C) for channels-last memory.
    scratch: at least C * P floats to write in; bands: of `row_bands`, where poolings by region are wanted, which set
    `maxima` (R, C) of the regions later, for the whole batch at once.
    """

    maxima: Tensor

    def __init__(self, maps: Tensor, scratch: Tensor, bands: Tensor | None = None) -> None:
        self.height, self.width = maps.shape[1:]
        self.bands = bands
        channels, positions = maps.shape[0], self.height * self.width
        scratch = scratch[: maps.numel()]
        if maps.is_contiguous():
            flat, self.scratch = maps.flatten(1), scratch.view(channels, positions)
        else:
            flat = maps.permute(1, 2, 0).flatten(0, 1).t()
            self.scratch = scratch.view(positions, channels).t()
        self.flat = flat if flat.data_ptr() % ALIGNMENT_BYTES == 0 else flat.clone()

    @cached_property
    def average(self) -> Tensor:
        return self.flat.sum(1) / self.flat.shape[1]

    @cached_property
    def maximum(self) -> Tensor:
        if self.flat.stride(1) == 1:
            return self.flat.amax(1)
        return maximum_over(self.flat.t() if self.bands is None else self.bands.flatten(0, 1), 0)

    @cached_property
    def summed(self) -> Tensor:
        """S' of eq. 1: the sum over channels at each position, (P,)."""
        return self.flat.sum(0)

    @cached_property
    def active(self) -> Tensor:
        """The number of non-zero responses of each channel, (C,) float64, exact; for maps without negatives."""
        return torch.sign(self.flat, out=self.scratch).sum(1).double()

    @cached_property
    def weighted(self) -> Tensor:
        """Sum over positions of S f_j, (C,), with S = (S' / ||S'||_2)^1/2 (eq. 1; CroW with a = b = 2)."""
        norm = self.summed.norm()
        if norm == 0:
            return torch.zeros_like(self.average)
        return torch.mv(self.flat, (self.summed / norm).sqrt())

    @cached_property
    def power_mean(self) -> Tensor:
        cubes = torch.mul(self.flat, self.flat, out=self.scratch).mul_(self.flat)
        return (cubes.sum(1) / self.flat.shape[1]).pow(1 / 3)

    @cached_property
    def regions(self) -> Tensor:
        """L2-normalised maximum of each R-MAC region, (R, C)."""
        return _unit_rows(self.maxima)

    def attention(self, power: float) -> Tensor:
        """Positions (H, W) bool where the summed map exceeds its power mean (power 1: the mean)."""
        threshold = self.summed.double().pow(power).mean().pow(1 / power)
        # a constant map must not exceed its own mean by a rounding error
        return (self.summed > threshold * (1 + 1e-6)).view(self.height, self.width)


def region_squares(height: int, width: int, *, scales: int = SCALES) -> list[tuple[int, int, int]]:
    """Regions (top, left, side) of R-MAC: squares of side 2 min(H, W) / (l + 1), l = 1 … `scales`.

    Tolias et al., ICLR 2016. On the longer side squares are added so that neighbours of scale 1 overlap by 40 % as
    nearly as possible; a side of zero becomes 1. A square map gives 1 + 4 + 9 regions.
    """
    short, long = min(height, width), max(height, width)
    extra = 0
    if long > short:
        extra = min(range(1, 7), key=lambda more: abs(1 - (long - short) / more / short - OVERLAP))
    squares = []
    for scale in range(1, scales + 1):
        side = max(1, 2 * short // (scale + 1))
        tops = _starts(height, side, scale + (extra if height > width else 0))
        lefts = _starts(width, side, scale + (extra if width > height else 0))
        squares += [(top, left, side) for top in tops for left in lefts]
    return squares


def _starts(length: int, side: int, count: int) -> list[int]:
    return [i * (length - side) // max(1, count - 1) for i in range(count)]


def _cuts(squares: list[tuple[int, int, int]], axis: int) -> list[int]:
    return sorted({square[axis] for square in squares} | {square[axis] + square[2] for square in squares})


def row_bands(maps: Tensor) -> Tensor:
    """The maximum over the rows between neighbouring borders of the regions: one pass over maps (B, C, H, W).

    (B, C, bands, W) where the maps are contiguous, (B, bands, W, C) where they are channels-last.
    """
    rows = _cuts(region_squares(*maps.shape[2:]), 0)
    if maps.is_contiguous():
        return torch.stack([maximum_over(maps[:, :, a:b], 2) for a, b in pairwise(rows)], 2)
    last = maps.permute(0, 2, 3, 1)
    return torch.stack([maximum_over(last[:, a:b], 1) for a, b in pairwise(rows)], 1)


def region_maxima(bands: Tensor, height: int, width: int, *, channels_last: bool) -> Tensor:
    """The maximum over each R-MAC region (B, R, C), in the order of `region_squares`, from `row_bands`."""
    squares = region_squares(height, width)
    rows, columns = _cuts(squares, 0), _cuts(squares, 1)
    if channels_last:
        cells = torch.stack([maximum_over(bands[:, :, a:b], 2) for a, b in pairwise(columns)], 2)
    else:
        cells = torch.stack([maximum_over(bands[..., a:b], 3) for a, b in pairwise(columns)], 3)
        cells = cells.permute(0, 2, 3, 1).contiguous()
    regions = []
    for top, left, side in squares:
        inside = maximum_over(cells[:, rows.index(top) : rows.index(top + side)], 1)
        regions.append(maximum_over(inside[:, columns.index(left) : columns.index(left + side)], 1))
    return torch.stack(regions, 1)


def maximum_over(values: Tensor, axis: int) -> Tensor:
    """`values.amax(axis)` by halves: several times as fast where the axis is not the last (elementwise, vectorised)."""
    while (length := values.shape[axis]) > 1:
        half = (length + 1) // 2
        values = torch.maximum(values.narrow(axis, 0, half), values.narrow(axis, length - half, half))
    return values.squeeze(axis)


def _unit_rows(rows: Tensor) -> Tensor:
    """Rows divided by their L2 norm; a zero row stays zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)


def spoc(of: MapStatistics) -> Tensor:
    """Average over positions (Babenko and Lempitsky 2015 sum; after L2 the two are the same)."""
    return of.average


def mac(of: MapStatistics) -> Tensor:
    """Maximum over positions."""
    return of.maximum


def gem(of: MapStatistics) -> Tensor:
    """Generalised mean (mean of f^3)^(1/3), Radenovic et al. 2018, without their floor of 1e-6."""
    return of.power_mean


def crow(of: MapStatistics) -> Tensor:
    """CroW (Kalantidis et al. 2016): C_j = log(sum_i Q_i / Q_j), Q_j the share of non-zero responses; 0 if dead."""
    return _channel_log(of.active, 0.0) * of.weighted


def fcrow(of: MapStatistics) -> Tensor:
    """FCroW, eqs. 1 and 2 of Wang et al. 2020 as printed: C_j = log(sum_i x_i / x_j + y_j / sum_i y_i).

    x_j is the "sum of non-zero responses" and y_j the "sum of zero responses" of channel j. A sum of zeros is zero, so
    both are read as counts. The second term is then about 1/C beside a first one of about C: on real images FCroW and
    CroW agree to three decimals of MAP@7, although the paper reports 0.208 against 0.194. A dead channel (x_j = 0)
    contributes 0; where no map has a zero the second term is 0.
    """
    return _channel_log(of.active, _zero_share(of)) * of.weighted


def fcrow_sums(of: MapStatistics) -> Tensor:
    """FCroW with x_j the sum of the values of channel j, and y_j the count of its zeros."""
    return _channel_log(of.average.double(), _zero_share(of)) * of.weighted


def fcrow_outside(of: MapStatistics) -> Tensor:
    """FCroW with the zero term outside the logarithm: C_j = log(sum_i x_i / x_j) + y_j / sum_i y_i."""
    inside = _channel_log(of.active, 0.0)
    zeros = torch.where(of.active > 0, _zero_share(of), 0.0).float()
    return (inside + zeros) * of.weighted


def _zero_share(of: MapStatistics) -> Tensor:
    zeros = of.flat.shape[1] - of.active
    return zeros / zeros.sum().clamp(min=1)


def _channel_log(responses: Tensor, added: Tensor | float) -> Tensor:
    """log(sum_i x_i / x_j + added_j), 0 for a dead channel, (C,) float32; computed in float64."""
    alive = responses > 0
    ratio = responses.sum() / torch.where(alive, responses, 1)
    return torch.where(alive, torch.log(torch.where(alive, ratio + added, 1)), 0).float()


def rmac(of: MapStatistics) -> Tensor:
    """R-MAC: sum of the L2-normalised maxima of the regions (Tolias et al. 2016), without their whitening per region."""
    return of.regions.sum(0)


def ramac(of: MapStatistics) -> Tensor:
    """RA-MAC: R-MAC with each region weighted by its share of positions where the summed map exceeds its mean."""
    return _attended_regions(of, 1.0)


def grmac(of: MapStatistics) -> Tensor:
    """GRMAC: RA-MAC with the threshold taken as a power mean of the summed map (power 3, our choice)."""
    return _attended_regions(of, GRMAC_POWER)


def _attended_regions(of: MapStatistics, power: float) -> Tensor:
    """Regions under one third get 0; where that leaves none (a constant map), all count alike, as in R-MAC."""
    maxima, attended = of.regions, of.attention(power)
    squares = region_squares(of.height, of.width)
    shares = torch.stack([attended[t : t + s, l : l + s].float().mean() for t, l, s in squares])
    shares = torch.where(shares < ATTENDED_SHARE - 1e-6, 0.0, shares)
    return (maxima * (shares if shares.any() else torch.ones_like(shares))[:, None]).sum(0)


def amac(of: MapStatistics) -> Tensor:
    """AMAC: maximum over the positions where the summed map exceeds its power mean; MAC where none does."""
    attended = of.attention(GRMAC_POWER).flatten()
    return of.flat[:, attended].amax(1) if attended.any() else of.maximum


_FORMULAS: dict[str, Callable[[MapStatistics], Tensor]] = {
    "spoc": spoc,
    "mac": mac,
    "gem": gem,
    "crow": crow,
    "fcrow": fcrow,
    "fcrow-sums": fcrow_sums,
    "fcrow-outside": fcrow_outside,
    "rmac": rmac,
    "ramac": ramac,
    "grmac": grmac,
    "amac": amac,
}
BY_REGION = frozenset({"rmac", "ramac", "grmac"})

NEEDS_NON_NEGATIVE = frozenset({"gem", "crow", "fcrow", "fcrow-sums", "fcrow-outside", "grmac", "amac"})


def check_poolings(names: Iterable[str]) -> None:
    """Raise ConfigurationError for a name that is no pooling, with the nearest known one."""
    for name in names:
        if name not in _FORMULAS:
            raise ConfigurationError(f"unknown pooling {name!r}: {nearest(name, _FORMULAS)}")


def check_non_negative(maps: Tensor, names: Iterable[str]) -> None:
    """Raise Top7Error if a pooling of `names` needs maps without negative values and `maps` has some."""
    needing = sorted(NEEDS_NON_NEGATIVE.intersection(names))
    if needing and maps.numel() and (lowest := maps.amin().item()) < 0:
        raise Top7Error(
            f"the maps hold negative values (down to {lowest:.4g}), which {', '.join(needing)} cannot take: clamp them"
            " at zero, choose a layer after a ReLU, or one of spoc, mac, rmac, ramac"
        )


def pool_maps(maps: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Return {name: (B, C) float32} for several poolings of maps (B, C, H, W) float32, not L2-normalised.

    Not-a-number and infinity are the caller's to find: they reach the descriptors. Raises ConfigurationError for an
    unknown name and Top7Error for negative maps where a pooling needs none.
    """
    names = list(dict.fromkeys(names))
    check_poolings(names)
    if not (maps.is_contiguous() or maps.is_contiguous(memory_format=torch.channels_last)):
        maps = maps.contiguous()
    pooled = {name: maps.new_empty(maps.shape[:2]) for name in names}
    if not len(maps):
        return pooled
    by_region = [name for name in names if name in BY_REGION]
    scratch = maps.new_empty(maps[0].numel())
    statistics: list[MapStatistics] = []
    # large maps one by one, while they are in the processor's cache; minima and maxima are exact either way
    for group in maps.split(1 if scratch.numel() * 4 > CACHED_BYTES else len(maps)):
        check_non_negative(group, names)
        bands = row_bands(group) if by_region else [None] * len(group)
        for image, image_bands in zip(group, bands, strict=True):
            of = MapStatistics(image, scratch, image_bands)
            for name in names:
                if name not in BY_REGION:
                    pooled[name][len(statistics)] = _FORMULAS[name](of)
            statistics.append(of)
    if by_region:
        bands = torch.stack([of.bands for of in statistics])
        maxima = region_maxima(bands, *maps.shape[2:], channels_last=not maps.is_contiguous())
        for row, of in enumerate(statistics):
            of.maxima = maxima[row]
            for name in by_region:
                pooled[name][row] = _FORMULAS[name](of)
    return pooled


def _single(name: str) -> Callable[[Tensor], Tensor]:
    return lambda maps: pool_maps(maps, (name,))[name]


POOLING: dict[str, Callable[[Tensor], Tensor]] = {name: _single(name) for name in _FORMULAS}
