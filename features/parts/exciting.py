"""Which images excite each part detector most, and where: Figures 1 to 3 of the PWA paper for one's own images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from competition.configuration import Parts
from competition.images import ImageSet
from competition.progress import Progress
from features.parts.aggregation import part_weights
from features.parts.selection import VARIANTS


@dataclass(frozen=True)
class Excited:
    """One image that excites a detector.

    response: sum of the detector's map; pixels: (H, W, 3) uint8 as the network sees it; weights: (H', W') float32, the
    detector's weight map.
    """

    id: str
    response: float
    pixels: np.ndarray
    weights: np.ndarray


def most_exciting(
    engine, images: ImageSet, parts: Parts, detectors: Sequence[int], most: int
) -> list[list[Excited]]:
    """Return for each of `detectors` (channels) the `most` images with the largest sum-pooled response.

    engine: a features.extraction.engine.Engine whose backbone has the layer of `parts`. Equal responses: the image
    with the lower row first. Images that cannot be read, or without any response, are left out. Two passes: all
    images one by one, then the chosen ones; memory: images * detectors * 4 bytes.
    """
    responses = np.zeros((len(images), len(detectors)), dtype=np.float32)
    for row, _, maps in _maps(engine, images, parts, range(len(images))):
        responses[row] = maps[0, list(detectors)].sum((1, 2)).cpu().numpy()
    responses = np.where(np.isfinite(responses), responses, 0)
    chosen = np.argsort(-responses, axis=0, kind="stable")[:most].T  # (detectors, most)
    found: dict[tuple[int, int], Excited] = {}
    for row, pixels, maps in _maps(engine, images, parts, np.unique(chosen).tolist()):
        for number in np.flatnonzero((chosen == row).any(axis=1) & (responses[row] > 0)).tolist():
            weights = part_weights(
                maps,
                torch.tensor([detectors[number]]),
                alpha=parts.alpha,
                beta=parts.beta,
                root=VARIANTS[parts.variant].root,
            )
            map_ = weights.view(maps.shape[2:]).cpu().numpy()
            found[number, row] = Excited(images.ids[row], float(responses[row, number]), pixels, map_)
    return [
        [found[number, row] for row in best if (number, row) in found]
        for number, best in enumerate(chosen.tolist())
    ]


def _maps(
    engine, images: ImageSet, parts: Parts, rows: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Yield (row, pixels (H, W, 3) uint8, maps (1, C, H', W')) of the readable images among `rows`."""
    position = engine.network.layers.index(parts.layer)
    pictures = engine.pictures(images, rows, scaled=False)
    for picture in Progress(pictures, total=len(rows), desc="parts", unit="image", leave=False):
        if picture.pixels is None:
            continue
        pixels = picture.pixels[0]
        # a second, blank image: some networks take another path for a batch of one
        maps = engine.maps(np.stack([pixels, np.zeros_like(pixels)]))[position][:1]
        yield picture.row, pixels, engine.for_parts(maps)
