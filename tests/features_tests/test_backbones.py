"""Networks from timm: layers by number and by name, weights from a file, a hub cache and chance, clear
errors.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from safetensors.torch import save_file

from competition.configuration import Backbone
from competition.errors import ConfigurationError, Top7Error
from features.networks.backbones import create_network
from features.networks.weights import read_state
from features.networks.weights_digest import stamped_digest, state_digest, weights_digest


def backbone(model: str = "test_resnet", **options: object) -> Backbone:
    values = {"layers": (0, 1), "name": model, "weights": "random", "image_size": 64}
    return Backbone(model, **(values | options))


def maps_of(described: Backbone, seed: int = 0) -> list[torch.Tensor]:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return create_network(described).forward(images)


def test_layers_by_number_are_timm_features():
    expected = timm.create_model("test_resnet", features_only=True)
    for layer, channels in zip((3, 0), expected.feature_info.channels()[3::-3]):
        assert maps_of(backbone(layers=(3, 0)))[(3, 0).index(layer)].shape[1] == channels


def test_a_module_name_gives_the_same_maps_as_its_number():
    by_number = maps_of(backbone(layers=(2,)))[0]
    module = timm.create_model("test_resnet", features_only=True).feature_info.module_name()[2]
    assert torch.equal(maps_of(backbone(layers=(module,)))[0], by_number)
    assert torch.equal(maps_of(backbone(layers=(module, 2)))[1], by_number)


def test_hooked_layers_are_not_overwritten_by_later_ones():
    """Convolution outputs are followed by in-place activations in many networks."""
    found = maps_of(backbone(layers=("conv1.0", "layer2")))[0]
    assert (found < 0).any()


@pytest.mark.parametrize("layers, indices", [(("conv1_1", "conv3_2", "conv5_2", "pool5"), (0, 2, 4, 5))])
def test_the_papers_names_for_vgg(layers, indices):
    by_name = maps_of(backbone("vgg11", layers=layers))
    by_number = maps_of(backbone("vgg11", layers=indices))
    for ours, expected in zip(by_name, by_number):
        assert torch.equal(ours, expected)
    inner = maps_of(backbone("vgg11", layers=("conv3_1", "conv3_2")))
    assert torch.equal(inner[1], by_number[1]) and inner[0].min() == 0 and not torch.equal(inner[0], inner[1])


@pytest.mark.parametrize("model", ["repvgg_a0", "test_resnet"])
def test_the_papers_names_are_refused_where_the_network_has_none_of_them(model):
    for layers in (("conv5_3",), (0, "conv1_2")):
        with pytest.raises(ConfigurationError, match="has no layer 'conv"):
            create_network(backbone(model, layers=layers))


def test_transformers_give_maps_in_channel_order():
    found = maps_of(backbone("test_vit", layers=(1, 3)))
    assert [tuple(maps.shape) for maps in found] == [(2, 64, 4, 4)] * 2
    assert create_network(backbone("test_vit")).transformer and not create_network(backbone()).transformer


def test_channels_last_networks_are_turned():
    widths = timm.create_model("test_mambaout", features_only=True).feature_info.channels()[:2]
    assert [maps.shape[1] for maps in maps_of(backbone("test_mambaout"))] == widths


def test_random_weights_are_the_same_each_time_and_said_aloud():
    network = create_network(backbone())
    assert "RANDOM" in network.notes[0]
    assert all(torch.equal(a, b) for a, b in zip(maps_of(backbone()), maps_of(backbone())))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_gives_its_weights_in_float32(tmp_path, half, suffix):
    torch.manual_seed(5)
    model = timm.create_model("test_resnet").eval()
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fc")}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    found = maps_of(backbone(weights=path))
    assert found[0].dtype == torch.float32
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    tolerance = 0.05 if half else 1e-5
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), "1 missing .such as layer1_?.?0.conv1.weight"),
        (lambda s: s.update({"other.weight": torch.zeros(1)}), "1 unexpected .such as other.weight"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(1, 1, 3, 3)}), "1 of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, change, message):
    state = timm.create_model("test_resnet").state_dict()
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(Top7Error, match=message) as caught:
        create_network(backbone(weights=tmp_path / "w.safetensors"))
    assert "\n" not in str(caught.value) and "w.safetensors" in str(caught.value)


def test_a_deeper_network_of_the_family_does_not_pass(tmp_path):
    """All that resnet18 needs is in resnet34's file; what is left over gives it away."""
    with torch.device("meta"):
        names = timm.create_model("resnet34").state_dict()
    save_file(
        {key: torch.zeros(value.shape) for key, value in names.items() if "fc" not in key},
        tmp_path / "w.safetensors",
    )
    with pytest.raises(Top7Error, match="unexpected"):
        create_network(backbone("resnet18", weights=tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such weights file"),
        (b"rubbish", "cannot be read as weights"),
    ],
)
def test_unreadable_weight_files(tmp_path, content, message):
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"w{suffix}"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Top7Error, match=message):
            read_state(path)


def test_code_in_a_weight_file_is_not_run(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(Top7Error, match="cannot be read"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "resnet_18"}, "unknown timm model 'resnet_18'.*did you mean"),
        ({"layers": (0, 9)}, "no layer 9.*known: 0, 1, 2, 3, 4"),
        ({"layers": ("layer9",)}, "no layer 'layer9'.*did you mean 'layer"),
        ({"model": "vgg11", "layers": ("conv1_2",)}, "no layer 'conv1_2'.*conv1_1"),
        ({"options": {"pad_typo": "same"}}, "refuses the options.*pad_typo"),
        ({"model": "test_resnet", "layers": ("fc",)}, "never run.*choose an earlier one"),
    ],
)
def test_unknown_names(options, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        maps_of(backbone(**options))
    assert "\n" not in str(caught.value)


@pytest.fixture()
def hub(tmp_path, monkeypatch):
    """A hub cache with weights of test_resnet, laid out as huggingface_hub does, and no way to the
    network.
    """
    cfg = timm.get_pretrained_cfg("test_resnet")
    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    repo = tmp_path / "hub" / f"models--{cfg.hf_hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return state


def test_hub_weights_from_its_cache_without_a_network(hub, tmp_path):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = timm.create_model("test_resnet").eval()
    model.load_state_dict(hub)
    with torch.inference_mode():
        expected = model.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
        found = create_network(backbone(weights="pretrained")).forward(images)
    for ours, theirs in zip(found, expected):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    digest = weights_digest(backbone(weights="pretrained"), tmp_path / "work")
    assert digest == state_digest(hub)


def test_the_digest_of_hub_weights_is_remembered(hub, tmp_path, monkeypatch):
    first = weights_digest(backbone(weights="pretrained"), tmp_path / "work")
    monkeypatch.setattr("features.networks.timm_models.source_state", None)
    assert weights_digest(backbone(weights="pretrained"), tmp_path / "work") == first


def test_a_hub_out_of_reach_says_what_to_do(hub):
    with pytest.raises(
        Top7Error, match='could not be fetched.*weights = "path/to/file.safetensors"'
    ) as caught:
        create_network(backbone("resnet10t", weights="pretrained"))
    assert "\n" not in str(caught.value)


def test_a_file_has_one_digest_and_a_changed_one_another(tmp_path):
    import hashlib

    path = tmp_path / "w.safetensors"
    path.write_bytes(b"one")
    assert stamped_digest(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    assert stamped_digest(path) == hashlib.sha256(b"other").hexdigest()


def test_random_weights_are_the_same_while_other_threads_make_networks():
    backbone = Backbone("test_resnet", (0, 1), "test_resnet", weights="random")
    expected = create_network(backbone).module.state_dict()
    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        made = [future.result() for future in [pool.submit(create_network, backbone) for _ in range(24)]]
    assert torch.equal(torch.random.get_rng_state(), before)
    for network in made:
        found = network.module.state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


FAMILIES = (  # the smallest of each, with the layer looked at and the stride timm states for it
    ("test_resnet", 2, 64),
    ("test_vit", 2, 64),
    ("test_convnext", 2, 64),
    ("test_efficientnet", 3, 64),
    ("test_mambaout", 1, 64),
    ("test_nfnet", 2, 64),
    ("test_byobnet", 2, 64),
    ("mobilenetv3_small_050", 3, 64),
    ("regnetx_002", 2, 64),
    ("vit_tiny_r_s16_p8_224", 2, 224),
    ("deit_tiny_distilled_patch16_224", 3, 224),
    ("swin_tiny_patch4_window7_224", 0, 224),
    ("eva02_tiny_patch14_224", 4, 224),
    ("vit_pwee_patch16_reg1_gap_256", 2, 256),
)


@pytest.mark.parametrize("model, layer, side", FAMILIES, ids=[family[0] for family in FAMILIES])
def test_maps_and_embeddings_of_many_families_are_timms_own(model, layer, side):
    whole = timm.create_model(model).eval()
    poolings = ("spoc", "head") + (("cls",) if getattr(whole, "cls_token", None) is not None else ())
    described = backbone(model, layers=(layer,), pooling=poolings, image_size=side)
    network = create_network(described)
    whole = timm.create_model(model, num_classes=0).eval()
    whole.load_state_dict(network.module.state_dict())
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = dict(zip(network.layers, network.forward(images), strict=True))
        features = whole.forward_features(images)
        expected = whole.forward_head(features, pre_logits=True)
        alone = create_network(backbone(model, layers=(layer,), pooling=("spoc",), image_size=side))
    stride = alone.module.feature_info.reduction()[0]
    assert found[layer].shape[2:] == (-(-side // stride),) * 2
    torch.testing.assert_close(found["head"][:, :, 0, 0], expected)
    if "cls" in poolings:
        torch.testing.assert_close(found["cls"][:, :, 0, 0], features[:, 0])
    with torch.inference_mode():
        torch.testing.assert_close(alone.forward(images)[0], found[layer])


def test_maps_of_swin_are_not_turned_by_a_guess():
    """At 384 px its first maps have as many rows as channels."""
    described = backbone("swin_tiny_patch4_window7_224", layers=(0,), image_size=384)
    network = create_network(described)
    images = torch.randn(1, 3, 384, 384, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, expected = network.forward(images)[0], network.module(images)[0]
    assert expected.shape == (1, 96, 96, 96) and torch.equal(found, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "model, pooling, message",
    [("test_resnet", "cls", "has no class token"), ("test_vit", "head", None)],
)
def test_embeddings_that_a_network_lacks_are_refused(model, pooling, message):
    described = backbone(model, layers=(1,), pooling=(pooling,))
    if message is None:
        assert create_network(described).layers == (1, "head")
        return
    with pytest.raises(ConfigurationError, match=message):
        create_network(described)


def test_embeddings_beside_layers_by_name():
    described = backbone("test_resnet", layers=("layer2",), pooling=("spoc", "head"))
    maps, head = maps_of(described)
    whole = timm.create_model("test_resnet", num_classes=0).eval()
    whole.load_state_dict(create_network(described).module.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
    torch.testing.assert_close(head[:, :, 0, 0], expected)
