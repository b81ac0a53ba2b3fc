"""Part-based weighting aggregation (PWA): maps -> one block of C values for each part detector.

Xu et al., AAAI 2018. w_n = (v_n / (sum v_n^alpha)^(1/alpha))^(1/beta) for the map v_n of detector n, and
psi_n = sum over positions of w_n f: a product (N x P) (P x C) an image, P = H * W.
"""

from __future__ import annotations

import torch
from torch import Tensor

from competition.errors import Top7Error
from features.map_statistics import aligned


def part_weights(
    maps: Tensor, detectors: Tensor, *, alpha: float = 2.0, beta: float = 2.0, root: bool = True
) -> Tensor:
    """Return the weight maps (B, N, P) float32 of `detectors` (N,) int64; a detector that is zero everywhere gives 0.

    maps: (B, C, H, W) float32 without negative values. root=False leaves out the exponent 1/alpha, as eq. 2 prints.
    """
    maps = maps[:, detectors].flatten(2)
    totals = torch.linalg.vector_norm(maps, ord=alpha, dim=2, keepdim=True)
    if not root:
        totals = totals.pow(alpha)
    shares = maps / torch.where(totals > 0, totals, 1)
    return shares.sqrt() if beta == 2 else shares.pow(1 / beta)


def aggregate(maps: Tensor, weights: Tensor) -> Tensor:
    """Return psi (B, N, C) float32, not normalised, of maps (B, C, H, W) and weights (B, N, P): eq. 1.

    Image by image, with each map where it lies (contiguous or channels-last): the batch changes no bit.
    """
    if not (maps.is_contiguous() or maps.is_contiguous(memory_format=torch.channels_last)):
        maps = maps.contiguous()
    psi = maps.new_empty(len(maps), weights.shape[1], maps.shape[1])
    for image, weight, row in zip(maps, weights, psi, strict=True):
        if image.is_contiguous():
            positions = image.flatten(1).t()
        else:
            positions = image.permute(1, 2, 0).flatten(0, 1)
        torch.mm(aligned(weight), aligned(positions), out=row)
    return psi


def check_maps(maps: Tensor, first: int = 0, *, finite: bool = True) -> None:
    """Raise Top7Error with the number of the image, counted from `first`, whose map is negative, NaN or infinite anywhere.

    finite=False: NaN and infinity pass.
    """
    flat = maps.flatten(1)
    lowest, highest = flat.amin(1), flat.amax(1)
    infinite = ~(torch.isfinite(lowest) & torch.isfinite(highest))
    bad = (lowest < 0) & ~infinite
    if finite:
        bad |= infinite
    if bad.any():
        row = int(bad.nonzero()[0])
        if infinite[row]:
            raise Top7Error(
                f"image {first + row}: its map holds NaN or infinity: recompute it in float32, or treat the image as unreadable"
            )
        raise Top7Error(
            f"image {first + row}: its map holds negative values (down to {lowest[row].item():.4g}), which part detectors"
            " cannot take: clamp the maps at zero, or choose a layer after a ReLU"
        )
