"""Networks whose convolutions run with what follows them give the maps of timm's own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn

from competition.configuration import Backbone
from features.dumps.layout import Target
from features.extraction.engine import Engine
from features.extraction.settings import Settings
from features.networks import fused_convolutions
from features.networks.fused_convolutions import FusedConvolution, can_fuse, fuse_convolutions, with_norm

pytestmark = pytest.mark.skipif(not can_fuse(), reason="this torch has no oneDNN")
IMAGES = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def with_values(module: nn.Module) -> nn.Module:
    """Batch norms that do something: fresh ones neither shift nor scale."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            width = part.num_features
            part.running_mean = torch.randn(width, generator=generator)
            part.running_var = torch.rand(width, generator=generator) + 0.5
            if part.affine:
                part.weight = nn.Parameter(torch.rand(width, generator=generator) + 0.5)
                part.bias = nn.Parameter(torch.randn(width, generator=generator))
    return module.eval().requires_grad_(False)


def fused_count(module: nn.Module) -> int:
    return sum(isinstance(part, FusedConvolution) for part in module.modules())


def assert_same_maps(module: nn.Module, forward=None, fused: int | None = None) -> dict[str, nn.Module]:
    """`module` gives the same maps after `fuse_convolutions`, with so many fused convolutions."""
    forward = forward or (lambda images: [module(images)])
    before = [found.clone() for found in forward(IMAGES)]
    replaced, reason = fuse_convolutions(module, forward)
    assert reason is None
    for found, expected in zip(forward(IMAGES), before, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if fused is not None:
        assert fused_count(module) == fused
    return replaced


def test_a_norm_goes_into_the_weights_by_hand():
    convolution, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0.0).eval()
    convolution.weight.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
    convolution.bias.copy_(torch.tensor([1.0, -1.0]))
    norm.running_mean, norm.running_var = torch.tensor([2.0, 0.0]), torch.tensor([4.0, 0.25])
    norm.weight.copy_(torch.tensor([2.0, 1.0]))
    norm.bias.copy_(torch.tensor([0.5, 0.0]))
    weight, bias = with_norm(convolution, norm)
    # 2 (3x + 1 - 2) / 2 + 0.5 = 3x - 0.5 and (5x - 1) / 0.5 = 10x - 2
    np.testing.assert_allclose(weight.flatten(), [3.0, 10.0], rtol=1e-6)
    np.testing.assert_allclose(bias, [-0.5, -2.0], rtol=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Identity, nn.GELU])
@pytest.mark.parametrize("groups, stride, bias", [(1, 1, True), (6, 2, False), (2, 1, False)])
def test_a_convolution_with_norm_and_activation(activation, groups, stride, bias):
    block = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Conv2d(6, 12, 3, stride, 1, groups=groups, bias=bias),
        nn.BatchNorm2d(12),
        activation(),
    )
    replaced = assert_same_maps(with_values(block), fused=1)
    assert set(replaced) == ({"1", "2"} if activation in (nn.GELU, nn.Identity) else {"1", "2", "3"})


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.GELU])
def test_timms_norm_with_its_activation_after_padding_that_depends_on_the_size(activation):
    block = nn.Sequential(Conv2dSame(3, 8, 3, stride=2, bias=False), BatchNormAct2d(8, act_layer=activation))
    assert_same_maps(with_values(block), fused=1)


class Block(nn.Module):
    """forward: how the parts below hang together."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.how = forward

    def forward(self, images):
        return self.how(self, images)


def both_read(self, images):  # the convolution's own result is needed beside its norm's
    found = self.first(images)
    return self.relu(self.norm(found)) + found


def one_relu_twice(self, images):
    return self.relu(self.second(self.relu(self.norm(self.first(images)))))


def added_before_the_relu(self, images):
    found = self.first(images)
    return self.relu(self.norm(self.second(found)) + found)


def called_twice(self, images):
    return self.second(self.second(self.first(images)))


def halved_between(self, images):
    return self.norm(self.first(images) / 2)


def asks_its_norm(self, images):
    return self.relu(self.norm(self.first(images))) * self.norm.eps


def test_a_network_that_asks_its_norm_for_something_is_put_back():
    block = with_values(Block(asks_its_norm))
    expected = block(IMAGES)
    replaced, reason = fuse_convolutions(block, lambda images: [block(images)])
    assert replaced == {} and reason.startswith("AttributeError")
    assert torch.equal(block(IMAGES), expected)


@pytest.mark.parametrize(
    "forward, fused",
    [(both_read, 0), (one_relu_twice, 1), (added_before_the_relu, 1), (called_twice, 0), (halved_between, 0)],
)
def test_only_what_nobody_else_reads_is_fused(forward, fused):
    assert_same_maps(with_values(Block(forward)), fused=fused)


def test_maps_that_are_wanted_themselves_stay():
    block = with_values(Block(lambda self, images: None))

    def returned(images):
        raw = block.first(images)
        normed = block.norm(raw)
        return [raw, normed, block.relu(block.second(normed))]

    assert_same_maps(block, returned, fused=1)
    assert type(block.first) is nn.Conv2d and type(block.norm) is nn.BatchNorm2d
    assert_same_maps(with_values(Block(lambda self, images: self.norm(self.first(images)))), fused=1)


def test_modules_that_somebody_listens_to_stay():
    block = with_values(Block(lambda self, images: self.relu(self.norm(self.first(images)))))
    heard = []
    block.norm.register_forward_hook(lambda *_: heard.append(1))
    assert_same_maps(block, fused=0)
    assert len(heard) == 4  # before, the probe, its check, after


MODELS = {
    "mobilenetv1_100": 27, "resnet18": 20, "vgg11_bn": 8, "vgg11": 8, "efficientnet_b0": None,
    "mobilenetv3_small_100": None, "densenet121": None, "resnetv2_50": None, "regnetx_002": None, "convnext_atto": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_timm(name):
    module = with_values(timm.create_model(name, features_only=True))
    convolutions = sum(isinstance(part, nn.Conv2d) for part in module.modules())
    assert_same_maps(module, module, fused=MODELS[name])
    assert fused_count(module) <= convolutions
    if MODELS[name] is None:
        assert 0 < fused_count(module)


def test_what_would_change_the_maps_is_put_back(monkeypatch):
    module = with_values(timm.create_model("resnet18", features_only=True))
    before, types = [found.clone() for found in module(IMAGES)], Counter(map(type, module.modules()))
    true = fused_convolutions.with_norm
    monkeypatch.setattr(
        fused_convolutions, "with_norm", lambda *chain: (1.01 * true(*chain)[0], true(*chain)[1])
    )
    replaced, reason = fuse_convolutions(module, module)
    assert replaced == {} and "its maps would differ by" in reason
    assert Counter(map(type, module.modules())) == types
    for found, expected in zip(module(IMAGES), before, strict=True):
        assert torch.equal(found, expected)


def test_a_network_that_refuses_the_probe_is_left_alone():
    def forward(images):
        raise ValueError("64 x 64 images\nare too small")

    assert fuse_convolutions(nn.Conv2d(3, 4, 1), forward) == ({}, "ValueError: 64 x 64 images are too small")


def settings(fused: bool | None) -> Settings:
    return Settings(
        "cpu", 2, "float32", "channels_last", 2, 8, torch.__version__, batch_threads=1, fused=fused
    )


def test_the_engine_says_why_a_network_is_not_fused(monkeypatch):
    monkeypatch.setattr(fused_convolutions, "can_fuse", lambda: False)
    backbone = Backbone("test_resnet", (0, 1), "test_resnet", weights="random", image_size=32)
    with torch.inference_mode(False):
        notes = Engine(backbone, settings(True)).notes
    assert (
        notes[-1]
        == f"test_resnet: its convolutions run as timm has them, which is slower: {fused_convolutions.NO_FUSING}"
    )


@pytest.mark.parametrize("layers", [(0, 2, 4), ("conv3_2", "conv5_3")])
def test_an_engine_and_its_twins_give_the_same_bytes(layers, tmp_path):
    backbone = Backbone(
        "vgg11_bn", layers[:2], "vgg11_bn", weights="random", image_size=32, pooling=("spoc", "fcrow")
    )
    if isinstance(layers[0], str):
        backbone = Backbone(
            "vgg16_bn", layers, "vgg16_bn", weights="random", image_size=32, pooling=("spoc", "fcrow")
        )
    with torch.inference_mode(False):
        plain, fused = Engine(backbone, settings(None)), Engine(backbone, settings(True))
    assert fused_count(fused.network.module) > 0 == fused_count(plain.network.module)
    targets = [
        Target(tmp_path, {}, layer, pooling) for layer in backbone.layers for pooling in backbone.pooling
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = plain.describe([pixels], targets)
    with torch.inference_mode(False):
        together = [fused.submit([pixels], targets) for _ in range(6)]
        found = [future.result() for future in together]
    assert len(fused._idle) > 1
    own, other = (twin.module.state_dict() for twin in fused._idle[:2])
    assert all(own[name].data_ptr() == other[name].data_ptr() for name in own)
    assert all(fused_count(twin.module) == fused_count(fused.network.module) for twin in fused._idle)
    for t in range(len(targets)):
        assert all(np.array_equal(batch.rows[t], found[0].rows[t]) for batch in found)
        np.testing.assert_allclose(found[0].rows[t], expected.rows[t], atol=1e-5)
