"""Poolings against naive loops, hand-computed maps and the laws that hold for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from competition.errors import ConfigurationError, Top7Error
from features.pooling import POOLING, needs_non_negative, pool_maps
from features.regions import region_squares

SIX = ("spoc", "mac", "gem", "crow", "fcrow", "rmac")
POSITIONAL = ("spoc", "mac", "gem", "crow", "fcrow", "fcrow-sums", "fcrow-outside", "amac")


def sparse_maps(shape, seed=0, dead=()):
    maps = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu_()
    maps[:, list(dead)] = 0
    return maps


def naive(name: str, f: np.ndarray) -> np.ndarray:
    """One image (C, H, W) float64, by loops over channels and positions."""
    channels, height, width = f.shape
    positions = [(y, x) for y in range(height) for x in range(width)]
    out = np.zeros(channels)
    if name == "spoc":
        for j in range(channels):
            out[j] = sum(f[j, y, x] for y, x in positions) / len(positions)
    elif name == "mac":
        for j in range(channels):
            out[j] = max(f[j, y, x] for y, x in positions)
    elif name == "spoc-centre":
        cy, cx, sigma = (height - 1) / 2, (width - 1) / 2, min(height, width) / 6
        prior = {(y, x): math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for y, x in positions}
        for j in range(channels):
            out[j] = sum(prior[p] * f[j][p] for p in positions) / sum(prior.values())
    elif name == "gem":
        for j in range(channels):
            out[j] = (sum(f[j, y, x] ** 3 for y, x in positions) / len(positions)) ** (1 / 3)
    elif name in ("crow", "fcrow", "fcrow-sums", "fcrow-outside"):
        summed = {p: sum(f[j][p] for j in range(channels)) for p in positions}
        norm = math.sqrt(sum(value**2 for value in summed.values()))
        x = [sum(1 for p in positions if f[j][p] != 0) / len(positions) for j in range(channels)]
        y = [1 - share for share in x]
        if name == "fcrow-sums":
            x = [sum(f[j][p] for p in positions) for j in range(channels)]
        for j in range(channels):
            if x[j] == 0:
                continue
            first, second = sum(x) / x[j], y[j] / sum(y) if sum(y) > 0 else 0
            weight = {
                "crow": math.log(first),
                "fcrow": math.log(first + second),
                "fcrow-sums": math.log(first + second),
                "fcrow-outside": math.log(first) + second,
            }[name]
            out[j] = weight * sum(math.sqrt(summed[p] / norm) * f[j][p] for p in positions)
    else:
        summed = np.array(
            [[sum(f[j, y, x] for j in range(channels)) for x in range(width)] for y in range(height)]
        )
        if name == "amac":  # USTC_NELSLIP 2020: maximum of the maps, zero where S < mean S
            masked = np.where(summed >= summed.mean(), f, 0)
            return masked.reshape(channels, -1).max(1)
        kind, whole = name.removesuffix("-whole"), name.endswith("-whole")
        power = {"rmac": None, "ramac": 1, "grmac": 3.5}[kind]
        lowest = summed.min()
        exceeds = (
            summed > np.mean((summed - lowest) ** power) ** (1 / power) + lowest + 1e-6 if power else None
        )
        windows = [(slice(t, t + s), slice(l, l + s)) for t, l, s in region_squares(height, width)]
        if whole:
            windows.insert(0, (slice(None), slice(None)))
        regions, shares = [], []
        for window in windows:
            vector = np.array([f[j][window].max() for j in range(channels)])
            regions.append(vector / (np.linalg.norm(vector) or 1))
            shares.append(1.0 if power is None else exceeds[window].mean())
        if power is not None:
            shares = [share if share > 1 / 3 + (1e-6 if whole else -1e-6) else 0 for share in shares]
            shares = shares if any(shares) else [1] * len(shares)
        for vector, share in zip(regions, shares, strict=True):
            out += share * vector
    return out


def pooled(name: str, maps: torch.Tensor) -> torch.Tensor:
    return pool_maps(maps, (name,))[name]


@pytest.mark.parametrize(
    "shape", [(2, 5, 6, 6), (2, 7, 4, 9), (1, 3, 9, 5), (2, 4, 1, 1), (1, 6, 1, 5), (1, 1, 3, 3)]
)
@pytest.mark.parametrize("name", POOLING)
def test_naive_loops(name, shape):
    maps = sparse_maps(shape, seed=3, dead=(1,) if shape[1] > 2 else ())
    expected = np.stack([naive(name, image.double().numpy()) for image in maps])
    for layout in (torch.contiguous_format, torch.channels_last):
        found = pooled(name, maps.contiguous(memory_format=layout))
        assert found.shape == shape[:2] and found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-6)


def test_gem_of_any_exponent():
    maps = sparse_maps((3, 5, 4, 6), seed=4) * 1e9  # its power would overflow float32
    expected = maps.double().pow(4.6).mean((2, 3)).pow(1 / 4.6)
    np.testing.assert_allclose(pool_maps(maps, ["gem-p4.6"])["gem-p4.6"], expected, rtol=1e-6)
    together = pool_maps(maps / 1e9, ["gem-p3", "gem", "gem-p2.5"])
    np.testing.assert_allclose(together["gem-p3"], together["gem"], rtol=1e-6)
    assert torch.equal(pool_maps(maps[1:2] / 1e9, ["gem-p2.5"])["gem-p2.5"][0], together["gem-p2.5"][1])
    for name in ("gem-p0", "gem-p-1", "gem-p101", "gem-pinf"):
        with pytest.raises(ConfigurationError, match="unknown pooling"):
            pool_maps(maps, [name])


def test_maps_worked_by_hand():
    # channel 0: 2 0 / 0 0, channel 1: 1 1 / 1 1, channel 2 dead; S' = 3 1 1 1, ||S'|| = sqrt(12)
    maps = torch.tensor([[[[2.0, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]])
    s = [math.sqrt(value / math.sqrt(12)) for value in (3, 1)]
    weighted = [2 * s[0], s[0] + 3 * s[1]]
    first, zeros = [5.0, 5 / 4], [3 / 7, 0.0]  # x = 1, 4, 0 and y = 3, 0, 4 positions
    expected = {
        "spoc": [0.5, 1, 0],
        "mac": [2, 1, 0],
        "gem": [2 ** (1 / 3), 1, 0],
        "crow": [math.log(first[0]) * weighted[0], math.log(first[1]) * weighted[1], 0],
        "fcrow": [math.log(first[0] + zeros[0]) * weighted[0], math.log(first[1]) * weighted[1], 0],
        # value sums 2 and 4
        "fcrow-sums": [math.log(3 + zeros[0]) * weighted[0], math.log(1.5) * weighted[1], 0],
        "fcrow-outside": [(math.log(first[0]) + zeros[0]) * weighted[0], math.log(first[1]) * weighted[1], 0],
        "amac": [2, 1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(pooled(name, maps)[0].numpy(), values, rtol=1e-6, err_msg=name)


def test_rmac_worked_by_hand():
    # 3 x 3: one region of side 3, four of side 2, nine of side 1; a single response at the top left corner
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 0, 0, 0] = 4
    maps[0, 1, 2, 2] = 3
    assert [side for *_, side in region_squares(3, 3)] == [3] + [2] * 4 + [1] * 9
    # scale 1 holds both (4/5, 3/5), scale 2 has each in one region, scale 3 as well
    np.testing.assert_allclose(pooled("rmac", maps)[0].numpy(), [0.8 + 2, 0.6 + 2], rtol=1e-6)


@pytest.mark.parametrize(
    "height,width", [(7, 7), (14, 14), (9, 23), (31, 8), (1, 1), (1, 9), (2, 3), (10, 100)]
)
def test_regions_lie_inside_and_reach_the_borders(height, width):
    squares = region_squares(height, width)
    assert all(0 <= t and 0 <= l and t + s <= height and l + s <= width and s >= 1 for t, l, s in squares)
    assert max(t + s for t, _, s in squares) == height and max(l + s for _, l, s in squares) == width
    assert min(t for t, _, _ in squares) == 0 == min(l for _, l, _ in squares)


def test_regions_of_a_map_twice_as_wide():
    # w = 10, W = 20: with m more squares their step is 10 / m; overlap 0.5 for m = 2 is nearest to 0.4
    assert [left for _, left, side in region_squares(10, 20) if side == 10] == [0, 5, 10]


def test_pool_maps_equals_each_alone_bit_for_bit():
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = sparse_maps((3, 24, 7, 7), seed=1, dead=(4,)).contiguous(memory_format=layout)
        together = pool_maps(maps, POOLING)
        for name in POOLING:
            assert torch.equal(together[name], pooled(name, maps)), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(16, 5, 7, 7), (9, 24, 13, 11), (6, 512, 14, 14)])
def test_an_image_does_not_depend_on_its_batch(shape, layout):
    maps = sparse_maps(shape, seed=2).contiguous(memory_format=layout)
    together = pool_maps(maps, POOLING)
    for row in range(shape[0]):
        alone = pool_maps(maps[row : row + 1].clone(memory_format=layout), POOLING)
        pair = pool_maps(maps[max(0, row - 1) : row + 1].clone(memory_format=layout), POOLING)
        for name in POOLING:
            assert torch.equal(together[name][row], alone[name][0]), name
            assert torch.equal(together[name][row], pair[name][-1]), name


def test_strided_maps_are_pooled_too():
    maps = sparse_maps((2, 6, 8, 8))[:, :, ::2, 1:7]
    expected = pool_maps(maps.contiguous(), SIX)
    for name, value in pool_maps(maps, SIX).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("name", POOLING)
def test_zero_maps_give_zero(name):
    assert not pooled(name, torch.zeros(2, 4, 3, 5)).any()


def test_fcrow_without_any_zero_is_crow():
    maps = sparse_maps((1, 4, 3, 3)) + 0.5
    np.testing.assert_allclose(pooled("fcrow", maps).numpy(), pooled("crow", maps).numpy(), rtol=1e-6)


def test_attended_poolings_of_a_constant_map():
    maps = torch.full((1, 3, 5, 5), 0.1)
    assert torch.equal(pooled("ramac", maps), pooled("rmac", maps))
    assert torch.equal(pooled("grmac", maps), pooled("rmac", maps))
    torch.testing.assert_close(pooled("grmac-whole", maps), pooled("rmac-whole", maps))
    assert torch.equal(pooled("amac", maps), pooled("mac", maps))


@pytest.mark.parametrize("shape", [(2, 5, 6, 6), (2, 7, 4, 9), (1, 3, 9, 5)])
@pytest.mark.parametrize("name", ["rmac-whole", "ramac", "ramac-whole", "grmac", "grmac-whole", "amac"])
def test_attended_poolings_of_maps_with_negative_values(name, shape):
    maps = torch.randn(*shape, generator=torch.Generator().manual_seed(8)) - 0.5
    expected = np.stack([naive(name, image.double().numpy()) for image in maps])
    for layout in (torch.contiguous_format, torch.channels_last):
        found = pooled(name, maps.contiguous(memory_format=layout))
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-6)


def test_a_region_attended_at_exactly_one_third_counts_in_ours_and_not_in_the_programs():
    maps = torch.zeros(1, 1, 3, 3)
    maps[0, 0, :, 0] = torch.tensor([3.0, 2.0, 1.5])  # three of nine exceed the mean, in the left column
    # ours: the square of side 3 at 1/3, of side 2 the left two at 1/2, of side 1 the three at 1
    assert pooled("ramac", maps).item() == pytest.approx(1 / 3 + 2 * 0.5 + 3)
    assert pooled("ramac-whole", maps).item() == pytest.approx(
        2 * 0.5 + 3
    )  # neither the whole map nor that square
    assert pooled("rmac-whole", maps).item() == pytest.approx(pooled("rmac", maps).item() + 1)


def test_negative_maps_are_refused_where_they_mean_nothing():
    maps = sparse_maps((2, 3, 4, 4))
    maps[1, 2, 0, 0] = -0.25
    for name in POOLING:
        if needs_non_negative(name):
            with pytest.raises(Top7Error, match=f"-0.25.*{name}.*clamp"):
                pooled(name, maps)
        else:
            assert torch.isfinite(pooled(name, maps)).all()


def test_unknown_name():
    with pytest.raises(ConfigurationError, match="did you mean 'crow'"):
        pool_maps(torch.zeros(1, 1, 1, 1), ["crwo"])


def test_empty_batch():
    assert {
        name: tuple(value.shape)
        for name, value in pool_maps(torch.zeros(0, 4, 3, 3), ("spoc", "rmac")).items()
    } == {
        "spoc": (0, 4),
        "rmac": (0, 4),
    }


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([0.25, 2.0, 64.0]),
)
def test_scale_scales_or_vanishes(seed, channels, height, width, scale):
    maps = sparse_maps((1, channels, height, width), seed=seed)
    plain, scaled = pool_maps(maps, POOLING), pool_maps(maps * scale, POOLING)
    for name in POOLING:
        factor = 1 if "rmac" in name or "ramac" in name else scale
        np.testing.assert_allclose(scaled[name].numpy(), plain[name].numpy() * factor, rtol=1e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 7), st.integers(1, 7))
def test_positions_may_be_permuted(seed, channels, height, width):
    maps = sparse_maps((1, channels, height, width), seed=seed)
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed + 1))
    mixed = maps.flatten(2)[:, :, order].view_as(maps).contiguous()
    pooled, permuted = pool_maps(maps, POSITIONAL), pool_maps(mixed, POSITIONAL)
    for name in POSITIONAL:
        np.testing.assert_allclose(permuted[name].numpy(), pooled[name].numpy(), rtol=1e-4, atol=1e-6)


def test_maps_of_one_position_have_both_layouts():
    """Such as a deep layer of a small image, of a network that runs channels-last."""
    values = torch.rand(2, 5)
    maps = values.as_strided((2, 5, 1, 1), (5, 1, 5, 5))
    assert maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)
    found = pool_maps(maps, ["mac", "rmac", "rmac-whole"])
    torch.testing.assert_close(found["mac"], values)
    unit = values / values.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found["rmac-whole"], found["rmac"] + unit)
