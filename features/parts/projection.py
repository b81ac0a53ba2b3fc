"""Whitening learnt once for every detector count: cumulative Gram matrices, and cumulative products to project.

With K_n = B_n B_n^T for the *unnormalised* block B_n (images x C) of detector n, the sample's Gram matrix for the first
N detectors is sum_{n <= N} K_n, and its diagonal holds the squared norms that this N divides by. A new image's
products with the sample add up in the same way. Blocks already divided by the norm of all detectors do not add up to
anything of use (relative error 0.83 at N = 10 of 50).

Products are float32, one detector at a time, their sums float64: what a count gets does not depend on which other
counts are asked for (N x C form).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

ROWS_A_PRODUCT = 32  # every product has this many rows, padded: its rounding does not depend on the batch
IMAGES_A_PASS = 64  # the sample is read once for so many images

Chunks = Callable[[int, int], Iterator[tuple[int, Tensor]]]


@dataclass(frozen=True)
class Piece:
    """Detectors [first, end) with the channels at places [left, right) of the order; right None: all channels."""

    first: int
    end: int
    left: int = 0
    right: int | None = None


def pieces(counts: tuple[int, ...], form: str) -> list[list[Piece]]:
    """Return what each count (ascending) adds to the one before it.

    NxC: the new detectors with all channels. NxN: the new detectors with the channels of all N, and the old detectors
    with the new channels.
    """
    return [
        [Piece(before, count)]
        if form == "NxC"
        else [Piece(before, count, 0, count), Piece(0, before, before, count)]
        for before, count in pairwise((0, *counts))
    ]


def _columns(values: Tensor, piece: Piece, order: Tensor) -> Tensor:
    return values if piece.right is None else values[..., order[piece.left : piece.right].to(values.device)]


class _Floats:
    """Half-precision blocks as float32 in one buffer: memory touched for the first time costs more than the sum."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def of(self, halves: Tensor, device: torch.device) -> Tensor:
        if device.type != "cpu":
            return halves.to(device).float()
        if self.buffer.numel() < halves.numel():
            self.buffer = torch.empty(halves.numel())
        return self.buffer[: halves.numel()].view(halves.shape).copy_(halves)


def cumulative_grams(
    counts: tuple[int, ...], form: str, order: Tensor, chunks: Chunks, n: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (count, (n, n) float64 products of the sample's unnormalised rows) for ascending counts.

    The array is the running sum itself: use it before asking for the next.
    """
    total, product, floats = torch.zeros(n, n, dtype=torch.float64), torch.empty(n, n), _Floats()
    for count, added in zip(counts, pieces(counts, form), strict=True):
        for piece in added:
            for _, halves in chunks(piece.first, piece.end):
                for block in floats.of(_columns(halves, piece, order), total.device):
                    total += torch.mm(block, block.T, out=product)
        yield count, total.numpy()


def project(
    psi: Tensor,
    components: Mapping[int, tuple[np.ndarray, np.ndarray]],
    form: str,
    order: Tensor,
    chunks: Chunks,
) -> dict[int, Tensor]:
    """Project psi (B, N, C) float32, unnormalised, of new images on the components of every count.

    components: {count: (coefficients (n, M) float64, offset (M,) float64)}, counts ascending; chunks: the sample's blocks,
    half precision. -> {count: (B, M) float32}; a zero psi gives zeros, NaN gives NaN.
    """
    if len(psi) > IMAGES_A_PASS:
        results = [project(part, components, form, order, chunks) for part in psi.split(IMAGES_A_PASS)]
        return {count: torch.cat([result[count] for result in results]) for count in components}
    images, counts = len(psi), tuple(components)
    n = len(components[counts[0]][0])
    groups = max(1, -(-images // ROWS_A_PRODUCT))
    rows = psi.new_zeros(psi.shape[1], groups * ROWS_A_PRODUCT, psi.shape[2])
    rows[:, :images] = psi.transpose(0, 1)
    products = psi.new_zeros(groups * ROWS_A_PRODUCT, n, dtype=torch.float64)
    squares = psi.new_zeros(groups * ROWS_A_PRODUCT, dtype=torch.float64)
    found, floats = {}, _Floats()
    for count, added in zip(counts, pieces(counts, form), strict=True):
        for piece in added:
            for place, halves in chunks(piece.first, piece.end):
                blocks = floats.of(_columns(halves, piece, order), psi.device).transpose(1, 2)
                part = _columns(rows[place : place + len(halves)], piece, order)
                for group in range(groups):
                    held = slice(group * ROWS_A_PRODUCT, (group + 1) * ROWS_A_PRODUCT)
                    for product in torch.bmm(part[:, held].contiguous(), blocks):
                        products[held] += product
                for block in part:
                    squares += block.square().sum(1).double()
        norms = squares.sqrt()[:, None]
        coefficients, offset = (torch.from_numpy(array).to(psi.device) for array in components[count])
        cosines = products / torch.where(norms == 0, 1, norms)
        projected = torch.cat([group @ coefficients for group in cosines.split(ROWS_A_PRODUCT)]) - offset
        found[count] = torch.where(norms == 0, 0, projected).float()[:images]
    return found
