"""Equation 2 and the aggregation of PWA against loops over detectors and positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from competition.errors import Top7Error
from features.parts.aggregation import aggregate, check_maps, part_weights


def maps_of(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu_()


def naive(maps, detectors, alpha, beta, root):
    f = maps.double().numpy()
    batch, channels, height, width = f.shape
    psi = np.zeros((batch, len(detectors), channels))
    for b in range(batch):
        for place, n in enumerate(detectors):
            total = sum(f[b, n, y, x] ** alpha for y in range(height) for x in range(width))
            if total == 0:
                continue
            total = total ** (1 / alpha) if root else total
            for y in range(height):
                for x in range(width):
                    weight = (f[b, n, y, x] / total) ** (1 / beta)
                    for c in range(channels):
                        psi[b, place, c] += weight * f[b, c, y, x]
    return psi


@pytest.mark.parametrize(
    "alpha,beta,root", [(2, 2, True), (2, 2, False), (1, 2, True), (3, 1, True), (2, 3.5, False)]
)
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 3, 1, 1), (3, 1, 2, 2)])
def test_naive_loops(shape, alpha, beta, root):
    maps = maps_of(shape, 1)
    detectors = torch.tensor(sorted({0, shape[1] - 1}, reverse=True))
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = maps.contiguous(memory_format=layout)
        psi = aggregate(laid, part_weights(laid, detectors, alpha=alpha, beta=beta, root=root))
        assert psi.dtype == torch.float32
        np.testing.assert_allclose(
            psi.numpy(), naive(maps, detectors.tolist(), alpha, beta, root), rtol=1e-5, atol=1e-6
        )


def test_worked_by_hand():
    # detector 0: 3 0 0 4, norm 5: weights sqrt(0.6) and sqrt(0.8)
    maps = torch.tensor([[[[3.0, 0], [0, 4]], [[1, 1], [1, 2]]]])
    psi = aggregate(maps, part_weights(maps, torch.tensor([0])))
    a, b = 0.6**0.5, 0.8**0.5
    np.testing.assert_allclose(psi[0, 0].numpy(), [3 * a + 4 * b, a + 2 * b], rtol=1e-6)


def test_detector_that_is_zero_everywhere():
    maps = maps_of((2, 4, 3, 3))
    maps[:, 2] = 0
    psi = aggregate(maps, part_weights(maps, torch.tensor([2, 0])))
    assert not psi[:, 0].any() and psi[:, 1].any() and torch.isfinite(psi).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(7, 5, 7, 7), (5, 24, 3, 5), (4, 64, 9, 9)])
def test_batch_changes_no_bit(shape, layout):
    maps = maps_of(shape, 2).contiguous(memory_format=layout)
    detectors = torch.arange(shape[1]).flip(0)[: shape[1] - 1]
    together = aggregate(maps, part_weights(maps, detectors))
    for row in range(shape[0]):
        alone = maps[row : row + 1].clone(memory_format=layout)
        assert torch.equal(aggregate(alone, part_weights(alone, detectors))[0], together[row])


@pytest.mark.parametrize(
    "value,said", [(float("nan"), "NaN"), (float("inf"), "infinity"), (-0.5, "negative.*-0.5")]
)
def test_bad_map_names_its_image(value, said):
    maps = maps_of((3, 4, 2, 2))
    maps[1, 3, 0, 1] = value
    for first in (0, 64):
        with pytest.raises(Top7Error, match=f"image {first + 1}: .*{said}"):
            check_maps(maps, first)
