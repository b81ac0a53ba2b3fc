"""The regions of R-MAC: where they lie, and the maxima over all of them from one pass over the maps."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

SCALES = 3
OVERLAP = 0.4

Square = tuple[int, int, int]


def region_squares(height: int, width: int) -> list[Square]:
    """Regions (top, left, side) of R-MAC: squares of side 2 min(H, W) / (l + 1), l = 1 … SCALES.

    Tolias et al., ICLR 2016. On the longer side squares are added so that neighbours of scale 1 overlap by 40 % as
    nearly as possible; a side of zero becomes 1. A square map gives 1 + 4 + 9 regions.
    """
    short, long = min(height, width), max(height, width)
    extra = 0
    if long > short:
        extra = min(range(1, 7), key=lambda more: abs(1 - (long - short) / more / short - OVERLAP))
    squares = []
    for scale in range(1, SCALES + 1):
        side = max(1, 2 * short // (scale + 1))
        tops = _starts(height, side, scale + (extra if height > width else 0))
        lefts = _starts(width, side, scale + (extra if width > height else 0))
        squares += [(top, left, side) for top in tops for left in lefts]
    return squares


def _starts(length: int, side: int, count: int) -> list[int]:
    return [i * (length - side) // max(1, count - 1) for i in range(count)]


def _cuts(squares: list[Square], axis: int) -> list[int]:
    return sorted({square[axis] for square in squares} | {square[axis] + square[2] for square in squares})


def row_bands(maps: Tensor) -> Tensor:
    """The maximum over the rows between neighbouring borders of the regions: one pass over maps (B, C, H, W).

    (B, C, bands, W) where the maps are contiguous, (B, bands, W, C) where they are channels-last.
    """
    rows = _cuts(region_squares(*maps.shape[2:]), 0)
    if maps.is_contiguous():
        return torch.stack([_maximum(maps[:, :, a:b], 2) for a, b in pairwise(rows)], 2)
    last = maps.permute(0, 2, 3, 1)
    return torch.stack([_maximum(last[:, a:b], 1) for a, b in pairwise(rows)], 1)


def region_maxima(bands: Tensor, height: int, width: int, *, channels_last: bool) -> Tensor:
    """The maximum over each R-MAC region (B, R, C), in the order of `region_squares`, from `row_bands`."""
    squares = region_squares(height, width)
    rows, columns = _cuts(squares, 0), _cuts(squares, 1)
    if not channels_last:
        bands = bands.permute(0, 2, 3, 1).contiguous()
    cells = torch.stack(
        [_maximum(bands[:, :, a:b], 2) for a, b in pairwise(columns)], 1
    )  # (B, columns, bands, C)
    stripes: dict[tuple[int, int], Tensor] = {}  # regions below one another share their columns
    regions = []
    for top, left, side in squares:
        if (left, side) not in stripes:
            stripes[left, side] = _maximum(cells[:, columns.index(left) : columns.index(left + side)], 1)
        regions.append(_maximum(stripes[left, side][:, rows.index(top) : rows.index(top + side)], 1))
    return torch.stack(regions, 1)


def _maximum(values: Tensor, axis: int) -> Tensor:
    return values.squeeze(axis) if values.shape[axis] == 1 else values.amax(axis)
