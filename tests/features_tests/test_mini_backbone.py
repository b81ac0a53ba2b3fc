"""The embedded network: its layout, its file, its folding, and a training of a few steps."""

from __future__ import annotations

import json

import numpy as np
import timm
import torch
from safetensors import safe_open
from torch import nn

from features.networks.mini_backbone import model
from tests.benchmarks import mini_backbone_training as train


def test_it_is_vgg16_at_a_quarter_of_its_width():
    ours = timm.create_model(model.NAME, pretrained=False, features_only=True)
    vgg = timm.create_model("vgg16", pretrained=False, features_only=True)
    assert ours.feature_info.module_name() == vgg.feature_info.module_name()
    assert [4 * channels for channels in ours.feature_info.channels()] == vgg.feature_info.channels()
    convolutions = [module for module in ours.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 13 and all(module.kernel_size == (3, 3) for module in convolutions)


def test_the_shipped_file_is_small_half_precision_and_loads_offline():
    assert model.WEIGHTS.stat().st_size <= 3_000_000
    with safe_open(model.WEIGHTS, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    assert all(value.dtype == torch.float16 for value in stored.values()) and len(stored) == 26
    assert not any(name.startswith(("head", "pre_logits")) for name in stored)
    network = timm.create_model(model.NAME, pretrained=True, features_only=True).eval()
    first = next(network.parameters())
    assert first.dtype == torch.float32
    torch.testing.assert_close(first, stored["features.0.weight"].float(), rtol=0, atol=0)
    maps = network(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [16, 32, 64, 128, 128, 128] and all((m >= 0).all() for m in maps)


def test_the_recipe_lies_beside_the_weights():
    recipe = json.loads(model.WEIGHTS.with_name("recipe.json").read_text())
    assert recipe["model"] == model.NAME and recipe["total_s"] < 3600 and recipe["settings"]["steps"] > 100


def test_folded_batch_norms_compute_the_same():
    torch.manual_seed(0)
    features = train.training_features()
    for module in features:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    features.eval()
    plain = timm.create_model(model.NAME, pretrained=False)
    plain.load_state_dict(model.complete_state(train.folded(features), plain), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(plain.features.eval()(images), features(images), rtol=1e-3, atol=1e-3)


def test_the_heads_sit_on_the_papers_layers():
    torch.manual_seed(0)
    features = train.training_features().eval()
    plain = timm.create_model(model.NAME, pretrained=False)
    plain.load_state_dict(model.complete_state(train.folded(features), plain))
    network = timm.create_model(model.NAME, pretrained=False, features_only=True)
    network.load_state_dict(
        {
            name.replace("features.", "features_"): value
            for name, value in plain.state_dict().items()
            if name.startswith("features.")
        },
        strict=False,
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        tapped = train.tapped(features, images)
        expected = dict(zip(("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"), network.eval()(images)))
    for name, maps in tapped.items():
        torch.testing.assert_close(maps, expected[name], rtol=1e-3, atol=1e-3)


def test_a_short_training_writes_weights_that_load(tmp_path):
    settings = train.TrainingRecipe(
        families=3, members=2, photos=1, stored_px=48, batch=6, steps=3, small_px=32, large_px=48
    )
    out = train.train(settings, tmp_path / "weights.safetensors", processes=1)
    plain = timm.create_model(model.NAME, pretrained=False)
    with safe_open(out, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
    plain.load_state_dict(model.complete_state(state, plain), strict=True)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["settings"]["steps"] == 3 and np.isfinite(recipe["loss_last_50_steps"])


def test_training_products_are_not_the_competitions():
    from competition.mini.build import STREAM, plan_contest
    from competition.mini.products import draw_family

    assert train.TRAINING_STREAM != STREAM
    ours = {picture.product for seed in range(3) for picture in plan_contest(seed).pictures}
    trained = {
        product
        for family in range(40)
        for product in draw_family(np.random.default_rng([train.TRAINING_STREAM, 0, family]), 3)
    }
    assert not ours & trained
