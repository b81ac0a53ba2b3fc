"""Pooling: the maps of one layer -> one descriptor an image; and descriptors as unit rows.

Each pooling is a function of the statistics of maps (B, C, H, W) float32 that returns (B, C) float32. They share what
they need, so that `pool_maps` reads the maps a few times however many poolings are asked for. Each image is reduced on
its own, in the memory layout it has (contiguous or channels-last, neither is copied): its result does not depend on the
batch it came in.

`gem-pN` is GeM with the exponent N, such as `gem-p4.6`. `cls` and `head` are no poolings of maps: the network itself
gives one embedding an image, which the backbone hands on as a map of one position.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from competition.errors import ConfigurationError, Top7Error, nearest
from features.components import EMBEDDINGS
from features.map_statistics import (
    MapStatistics,
    attention,
    by_row,
    groups_of,
    raised_attention,
    unit_vectors,
)
from features.regions import region_squares

ATTENDED_SHARE = 1 / 3


def gem_exponent(name: str) -> float | None:
    """Return the exponent N of the pooling `gem-pN`, at most 100; None for any other name."""
    match = re.fullmatch(r"gem-p(\d+(?:\.\d+)?)", name)
    return float(match[1]) if match and 0 < float(match[1]) <= 100 else None


def fcrow(of: MapStatistics) -> Tensor:
    """FCroW, eqs. 1 and 2 of Wang et al. 2020 as printed: C_j = log(sum_i x_i / x_j + y_j / sum_i y_i).

    x_j is the "sum of non-zero responses" and y_j the "sum of zero responses" of channel j. A sum of zeros is zero, so
    both are read as counts. The second term is then about 1/C beside a first one of about C: on real images FCroW and
    CroW agree to three decimals of MAP@7, although the paper reports 0.208 against 0.194. A dead channel (x_j = 0)
    contributes 0; where no map has a zero the second term is 0.
    """
    return _channel_log(of.active, _zero_share(of)) * of.weighted


def fcrow_outside(of: MapStatistics) -> Tensor:
    """FCroW with the zero term outside the logarithm: C_j = log(sum_i x_i / x_j) + y_j / sum_i y_i."""
    inside = _channel_log(of.active, 0.0)
    zeros = torch.where(of.active > 0, _zero_share(of), 0.0).float()
    return (inside + zeros) * of.weighted


def _zero_share(of: MapStatistics) -> Tensor:
    zeros = of.height * of.width - of.active
    return zeros / zeros.sum(1, keepdim=True).clamp(min=1)


def _channel_log(responses: Tensor, added: Tensor | float) -> Tensor:
    """log(sum_i x_i / x_j + added_j), 0 for a dead channel, (B, C) float32; computed in float64."""
    alive = responses > 0
    ratio = responses.sum(1, keepdim=True) / torch.where(alive, responses, 1)
    return torch.where(alive, by_row(torch.log, torch.where(alive, ratio + added, 1)), 0).float()


def _attended_regions(of: MapStatistics, attended: Tensor, *, whole: bool = False) -> Tensor:
    """Regions under one third get 0 (with `whole`: and at one third); if that leaves none, all count alike, as in R-MAC.

    attended: (B, P) bool; whole: the whole map is a region more.
    """
    regions, attended = of.regions, attended.view(-1, of.height, of.width)
    squares = region_squares(of.height, of.width)
    each = [attended[:, t : t + s, l : l + s].float().mean((1, 2)) for t, l, s in squares]
    if whole:
        regions = torch.cat([unit_vectors(of.maximum)[:, None], regions], 1)
        each = [attended.float().mean((1, 2)), *each]
    shares = torch.stack(each, 1)
    shares = torch.where(shares < ATTENDED_SHARE + (1e-6 if whole else -1e-6), 0.0, shares)
    shares = torch.where(shares.any(1, keepdim=True), shares, 1.0)
    return (regions * shares[:, :, None]).sum(1)


POOLING: dict[str, Callable[[MapStatistics], Tensor]] = {
    "spoc": lambda of: of.average,  # Babenko and Lempitsky 2015, sum: after L2 the two are the same
    "spoc-centre": lambda of: of.centred,  # with its centre prior, their eq. 5
    "mac": lambda of: of.maximum,
    # (mean of f^3)^(1/3), Radenovic et al. 2018, without their floor of 1e-6
    "gem": lambda of: of.power_mean,
    # Kalantidis et al. 2016: C_j = log(sum_i Q_i / Q_j), Q_j the share of non-zero responses; 0 if dead
    "crow": lambda of: _channel_log(of.active, 0.0) * of.weighted,
    "fcrow": fcrow,
    # x_j is the sum of the values of channel j, y_j the count of its zeros
    "fcrow-sums": lambda of: _channel_log(of.average.double(), _zero_share(of)) * of.weighted,
    "fcrow-outside": fcrow_outside,
    # sum of the L2-normalised maxima of the regions, Tolias et al. 2016, without their whitening per region
    "rmac": lambda of: of.regions.sum(1),
    # with the whole map as one more region, as the programs of cirtorch, GAN (2018) and USTC_NELSLIP have it
    "rmac-whole": lambda of: of.regions.sum(1) + unit_vectors(of.maximum),
    # each region weighted by its share of positions where the summed map exceeds its mean (GAN 2018, our regions)
    "ramac": lambda of: _attended_regions(of, attention(of.summed)),
    # as GAN's program has it, which takes mean and shares over a whole batch: here it is each image's own
    "ramac-whole": lambda of: _attended_regions(of, attention(of.summed), whole=True),
    # with the threshold (mean((S - min S)^3.5))^(1/3.5) + min S (USTC_NELSLIP 2019, our regions)
    "grmac": lambda of: _attended_regions(of, raised_attention(of.summed, 3.5)),
    # as the programs of USTC_NELSLIP (2019, 2020) have it
    "grmac-whole": lambda of: _attended_regions(of, raised_attention(of.summed, 3.5), whole=True),
    # maximum of the maps with zero wherever the summed map is below its mean (USTC_NELSLIP 2020)
    "amac": lambda of: of.attended_maximum,
}

_NON_NEGATIVE = frozenset({"gem", "crow", "fcrow", "fcrow-sums", "fcrow-outside"})


def needs_non_negative(name: str) -> bool:
    """Say whether a pooling takes no negative values."""
    return name in _NON_NEGATIVE or gem_exponent(name) is not None


def check_poolings(names: Iterable[str]) -> None:
    """Raise ConfigurationError for a name that is no pooling, with the nearest known one."""
    known = [*POOLING, "gem-p4.6", *EMBEDDINGS]
    for name in names:
        if name not in known and gem_exponent(name) is None:
            raise ConfigurationError(f"unknown pooling {name!r}: {nearest(name, known)}")


def check_non_negative(maps: Tensor, names: Iterable[str]) -> None:
    """Raise Top7Error if a pooling of `names` needs maps without negative values and `maps` has some."""
    needing = sorted(filter(needs_non_negative, names))
    if needing and maps.numel() and -math.inf < (lowest := maps.amin().item()) < 0:
        raise Top7Error(
            f"the maps hold negative values (down to {lowest:.4g}), which {', '.join(needing)} cannot take: clamp them"
            " at zero, choose a layer after a ReLU, or one of spoc, mac, rmac, ramac, grmac, amac"
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
    if not len(maps):
        return {name: maps.new_empty(maps.shape[:2]) for name in names}
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    groups = groups_of(maps)
    scratch = maps.new_empty(groups[0].numel())
    for group in groups:
        check_non_negative(group, names)
        of = MapStatistics(group, scratch)
        for name, parts in found.items():
            parts.append(_formula(name)(of))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _formula(name: str) -> Callable[[MapStatistics], Tensor]:
    if (exponent := gem_exponent(name)) is not None:
        return lambda of: of.power(exponent)
    return POOLING["spoc" if name in EMBEDDINGS else name]


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
