"""The cumulative whitening of each count against PCA fitted on that count alone, and what is kept on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from competition.configuration import Parts
from competition.errors import ConfigurationError, Top7Error
from features.parts import learn_parts
from features.parts.aggregation import aggregate, part_weights

PARTS = Parts(layer=0, counts=(2, 5, 8), dims=(4, 6))


def maps_of(n=30, channels=8, side=4, seed=0):
    """Sparse maps of six factors of falling strength, so that components are told apart, with a little noise."""
    mixing = torch.randn(6, channels, side * side, generator=torch.Generator().manual_seed(99))
    strength = (torch.tensor([3.0, 2, 1.4, 1, 0.7, 0.5]))[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(n, 6, generator=generator)
    noise = 0.3 * torch.randn(n, channels, side * side, generator=generator)
    maps = torch.einsum("nf,fcp->ncp", factors, mixing * strength) + noise
    scale = torch.linspace(1, 2, channels)[:, None]
    return (maps * scale).relu().view(n, channels, side, side)


class Sample:
    """Maps in batches, counting the passes."""

    def __init__(self, maps, size=7):
        self.maps, self.size, self.passes = maps, size, 0

    def __call__(self):
        self.passes += 1
        return iter(self.maps.split(self.size))


def learn(parts, maps, folder, **named):
    return learn_parts(parts, maps, folder, name="net.0", provenance={"weights": "abc"}, **named)


def psi_of(model, maps, count, form="NxC"):
    detectors = torch.from_numpy(model.order[:count].copy())
    channels = detectors if form == "NxN" else slice(None)
    psi = aggregate(maps, part_weights(maps, detectors))[:, :, channels].flatten(1).double().numpy()
    return psi / np.linalg.norm(psi, axis=1, keepdims=True)


@pytest.mark.parametrize("form", ["NxC", "NxN"])
def test_each_count_equals_pca_on_that_count_alone(tmp_path, form):
    parts = replace(PARTS, form=form, dims=(3,) if form == "NxN" else (6,))
    maps, unseen = maps_of(), maps_of(9, seed=5)
    model = learn(parts, Sample(maps), tmp_path)
    projected = model.project(unseen)
    for count in parts.counts:
        pca = PCA(n_components=parts.dims[0], svd_solver="full").fit(psi_of(model, maps, count, form))
        expected = pca.transform(psi_of(model, unseen, count, form))
        found = projected[count].double().numpy()
        signs = np.sign((expected * found).sum(0))
        np.testing.assert_allclose(found, expected * signs, atol=1e-2 * np.abs(expected).max())
        cosines = (
            np.abs((expected * found).sum(0))
            / np.linalg.norm(expected, axis=0)
            / np.linalg.norm(found, axis=0)
        )
        assert cosines.min() > 0.9999
        np.testing.assert_allclose(
            model.eigenvalues[count] / (len(maps) - 1), pca.explained_variance_, rtol=5e-3
        )


def test_counts_do_not_change_each_other(tmp_path):
    maps, unseen = maps_of(), maps_of(5, seed=5)
    together = learn(PARTS, Sample(maps), tmp_path / "a").project(unseen)
    alone = learn(replace(PARTS, counts=(5,)), Sample(maps), tmp_path / "b").project(unseen)
    assert torch.equal(together[5], alone[5])
    model = learn(PARTS, None, tmp_path / "a").only((2,))
    assert model.counts == (2,) and torch.equal(model.project(unseen)[2], together[2])


@pytest.mark.parametrize("channels,side", [(8, 4), (20, 3), (24, 1)])
def test_batch_changes_no_bit(tmp_path, channels, side):
    maps, unseen = maps_of(40, channels, side), maps_of(70, channels, side, seed=5)
    model = learn(PARTS, Sample(maps), tmp_path)
    together = model.project(unseen)
    for count in PARTS.counts:
        for row in (0, 1, 13, 63, 64, 69):
            assert torch.equal(model.project(unseen[row : row + 1].clone())[count][0], together[count][row])
        assert torch.equal(model.project(unseen[30:37])[count], together[count][30:37])
        assert together[count].shape == (70, 6) and together[count].dtype == torch.float32
    assert model.project(unseen[:0])[2].shape == (0, 6)


def test_same_inputs_same_bytes(tmp_path):
    for folder in ("a", "b"):
        learn(PARTS, Sample(maps_of(), size=7 if folder == "a" else 30), tmp_path / folder)
    files = sorted(
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.is_file()
    )
    assert len(files) == 11  # order, scales, blocks, three counts; sums of all, scales with their blocks
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_only_what_is_missing_is_computed(tmp_path):
    maps = maps_of()
    sample = Sample(maps)
    learn(replace(PARTS, counts=(5,)), sample, tmp_path)
    assert sample.passes == 2
    learn(replace(PARTS, counts=(5,)), sample, tmp_path)
    learn(replace(PARTS, counts=(2, 5)), sample, tmp_path)  # a smaller count: from the sample's blocks
    assert sample.passes == 2
    grown = learn(PARTS, sample, tmp_path)  # eight: the blocks of three more detectors
    assert sample.passes == 3
    whole = learn(PARTS, Sample(maps), tmp_path / "new")
    unseen = maps_of(5, seed=5)
    for count in PARTS.counts:
        assert torch.equal(grown.project(unseen)[count], whole.project(unseen)[count])
    wider = learn(replace(PARTS, dims=(7,)), sample, tmp_path)
    assert sample.passes == 3 and wider.project(unseen)[8].shape == (5, 7)


def test_order_is_by_variance_and_reused_on_another_gallery(tmp_path):
    maps = maps_of()
    model = learn(PARTS, Sample(maps), tmp_path)
    variance = maps.double().sum((2, 3)).var(0, unbiased=False)
    assert model.order.tolist() == torch.argsort(variance, descending=True).tolist()
    entry = json.loads((model.folder / "order.json").read_text())
    assert entry["order"] == model.order.tolist() and entry["variance"] == sorted(
        entry["variance"], reverse=True
    )
    again = learn(
        replace(PARTS, selection=str(model.folder / "order.json")), Sample(maps_of(seed=9)), tmp_path
    )
    assert again.order.tolist() == model.order.tolist() and again.folder != model.folder
    listed = tmp_path / "list.json"
    listed.write_text("[3, 1]")
    few = learn(replace(PARTS, selection=str(listed), counts=(2,)), Sample(maps), tmp_path)
    assert few.order[:2].tolist() == [3, 1]
    with pytest.raises(ConfigurationError, match="counts 5, 8 exceed the 2 channels"):
        learn(replace(PARTS, selection=str(listed)), Sample(maps), tmp_path)


def test_random_order(tmp_path):
    models = [
        learn(replace(PARTS, selection="random", seed=seed), Sample(maps_of()), tmp_path) for seed in (0, 1)
    ]
    assert sorted(models[0].order.tolist()) == list(range(8))
    assert models[0].order.tolist() != models[1].order.tolist()


def test_count_above_the_channels(tmp_path):
    batches = iter(maps_of().split(7))
    with pytest.raises(ConfigurationError, match="counts 9, 12 exceed the 8 channels"):
        learn(replace(PARTS, counts=(2, 9, 12)), lambda: batches, tmp_path)
    assert len(list(batches)) == 4  # said after the first of five batches


def test_dimensions_beyond_the_rank(tmp_path):
    with pytest.raises(ConfigurationError, match="holds 40, but training_images = 40 give 39 dimensions"):
        learn(replace(PARTS, dims=(3, 40), training_images=40), None, tmp_path)
    with pytest.raises(ConfigurationError, match="holds 40.*30 images give 29"):
        learn(replace(PARTS, dims=(40,)), Sample(maps_of()), tmp_path)
    with pytest.raises(ConfigurationError, match="holds 30.*30 images give 29"):
        learn(replace(PARTS, counts=(8,), dims=(30,)), Sample(maps_of()), tmp_path)
    with pytest.raises(ConfigurationError, match="2 detectors and a sample of 30 images give 16"):
        learn(replace(PARTS, counts=(2,), dims=(20,)), Sample(maps_of()), tmp_path)


def test_sample_smaller_than_the_dimension_gives_all_it_has(tmp_path):
    maps = maps_of(5)
    model = learn(replace(PARTS, dims=(4,)), Sample(maps), tmp_path)
    pca = PCA(n_components=4, svd_solver="full").fit(psi_of(model, maps, 8))
    np.testing.assert_allclose(model.eigenvalues[8] / 4, pca.explained_variance_, rtol=5e-3)


def test_identical_images(tmp_path):
    maps = maps_of(1).repeat(6, 1, 1, 1)
    with pytest.raises(ConfigurationError, match="give 0 dimensions"):
        learn(replace(PARTS, dims=(1,)), Sample(maps), tmp_path)
    pairs = maps_of(4).repeat(2, 1, 1, 1)
    model = learn(replace(PARTS, dims=(3,)), Sample(pairs), tmp_path / "pairs")
    projected = model.project(pairs)[8]
    assert torch.equal(projected[:4], projected[4:]) and torch.isfinite(projected).all()
    with pytest.raises(ConfigurationError, match="give 3 dimensions"):
        learn(replace(PARTS, dims=(4,)), Sample(pairs), tmp_path / "pairs")


def test_zero_detector_zero_image_and_one_position(tmp_path):
    maps = maps_of(side=1)
    maps[:, 6] = 0
    model = learn(PARTS, Sample(maps), tmp_path)
    assert model.order[-1] == 6  # without variance
    unseen = maps_of(3, side=1, seed=4)
    unseen[1] = 0
    projected = model.project(unseen)[8]
    assert not projected[1].any() and torch.isfinite(projected).all() and projected[0].any()


def test_nan_names_the_image(tmp_path):
    maps = maps_of()
    maps[17, 3, 2, 2] = float("nan")
    with pytest.raises(Top7Error, match="image 17: .*NaN"):
        learn(PARTS, Sample(maps), tmp_path)
    model = learn(PARTS, Sample(maps_of()), tmp_path)
    projected = model.project(maps)[8]  # only the image's own row is lost
    assert torch.isnan(projected[17]).all()
    others = torch.arange(30) != 17
    assert torch.equal(projected[others], model.project(maps_of())[8][others])


def test_unknown_names(tmp_path):
    for wrong, said in (
        ({"form": "NxM"}, "form 'NxM'"),
        ({"variant": "defualt"}, "'default'"),
        ({"selection": "best"}, "variance, variance-mean, random"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            learn(replace(PARTS, **wrong), Sample(maps_of()), tmp_path)


def test_variants(tmp_path):
    maps, unseen = maps_of(), maps_of(5, seed=5)
    models = {
        name: learn(replace(PARTS, variant=name), Sample(maps), tmp_path)
        for name in ("default", "printed-weights", "uncentred", "eigenvalues", "printed", "ledoit-wolf")
    }
    uncentred = psi_of(models["uncentred"], maps, 8)
    _, values, axes = np.linalg.svd(uncentred, full_matrices=False)
    np.testing.assert_allclose(models["uncentred"].eigenvalues[8], values[:6] ** 2, rtol=5e-3)
    found = models["uncentred"].project(unseen)[8].numpy()
    np.testing.assert_allclose(
        np.abs(found), np.abs(psi_of(models["default"], unseen, 8) @ axes[:6].T), atol=2e-3
    )
    plain, shrunk = models["default"].eigenvalues[8], models["ledoit-wolf"].eigenvalues[8]
    assert shrunk[0] / shrunk[-1] < plain[0] / plain[-1]
    np.testing.assert_allclose(models["eigenvalues"].scales(8, 4, 1.0), 1 / plain[:4])
    np.testing.assert_allclose(models["default"].scales(8, 4, 1.0), plain[:4] ** -0.5)
    assert models["printed-weights"].folder != models["default"].folder == models["eigenvalues"].folder


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def zero(data):
    return data[: len(data) // 3] + bytes(len(data) - len(data) // 3)


@pytest.mark.parametrize("harm", [cut, flip, zero])
@pytest.mark.parametrize("kind, passes", [("order", 1), ("blocks", 1), ("scales", 1), ("components-N5", 0)])
def test_damaged_files_are_learnt_again_to_the_same_bytes(tmp_path, kind, passes, harm):
    model = learn(PARTS, Sample(maps_of()), tmp_path)
    before = {path.name: path.read_bytes() for path in Path(model.folder).iterdir()}
    path = next(path for path in Path(model.folder).glob(f"{kind}*") if path.suffix != ".sum")
    path.write_bytes(harm(path.read_bytes()))
    sample = Sample(maps_of())
    learn(PARTS, sample, tmp_path)
    assert sample.passes == passes
    assert {path.name: path.read_bytes() for path in Path(model.folder).iterdir()} == before


def test_interrupted_learning_leaves_no_half_file(tmp_path):
    class Broken(Sample):
        def __call__(self):
            for number, batch in enumerate(super().__call__()):
                if self.passes == 2 and number == 2:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        learn(PARTS, Broken(maps_of()), tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*") if path.is_file() and path.suffix != ".sum"] == [
        "order.json"
    ]
    resumed = learn(PARTS, Sample(maps_of()), tmp_path)
    whole = learn(PARTS, Sample(maps_of()), tmp_path / "new")
    unseen = maps_of(3, seed=5)
    assert torch.equal(resumed.project(unseen)[8], whole.project(unseen)[8])
