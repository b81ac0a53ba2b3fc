"""Part detectors through a whole extraction: counts asked for later, half precision, order files, whitening."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from competition.configuration import load_configuration
from competition.errors import ConfigurationError, Top7Error
from features.components import parts_component
from features.descriptors import open_components
from features.dumps import open_dump
from features.dumps.layout import table_of
from features.extraction import extract
from features.parts.part_model import open_parts
from tests.features_tests.extraction_competition import parts_path


@pytest.fixture()
def folder(tmp_path):
    for split, names in (("gallery", 21), ("val", 3)):
        (tmp_path / split).mkdir()
        for number in range(names):
            pixels = np.random.default_rng([names, number]).integers(0, 255, (6, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC)
            picture.save(tmp_path / split / f"{split}{number:02d}.png")
    (tmp_path / "gallery" / "broken.png").write_bytes(b"no image")
    return tmp_path


def configured(folder: Path, counts=(4, 8), work="work", more=""):
    (folder / "config.toml").write_text(
        f"""
[competition]
name = "tiny"
gallery = "gallery"
validation = "val"

[[backbone]]
model = "test_resnet"
weights = "random"
image_size = 32
layers = [3]
pooling = ["spoc"]
parts = {{ layer = 3, counts = {list(counts)}, dims = [3, 6], exponents = [0.0, 1.0] {more} }}

[simulate]
images = 0
"""
    )
    return load_configuration(folder / "config.toml", work=folder / work)


def run(configuration):
    return extract(configuration, device="cpu", progress=False)


def dump(configuration, count, split="gallery"):
    return open_dump(parts_path(configuration, split, count))


def whitened(configuration, count, dim, exponent, split="gallery", table=0):
    component = parts_component(configuration.backbones[0], table, count, dim, exponent)
    return open_components(configuration, [component], split, None)[0]


def test_a_count_asked_for_later_costs_only_itself(folder, capsys):
    run(configured(folder, counts=(4, 8)))
    assert "of the gallery itself" in capsys.readouterr().err
    before = {
        path: path.stat().st_mtime_ns
        for path in (folder / "work").rglob("*")
        if path.suffix in (".npy", ".safetensors")
    }
    later = configured(folder, counts=(4, 6, 8, 12))
    with pytest.raises(Top7Error, match=r"12 detectors need one more pass.*\./run\.sh extract"):
        whitened(later, 12, 3, 1.0)
    run(later)
    said = capsys.readouterr().err
    assert "12 needs 4 more detectors than the 8" in said and "components for 6, 12 detectors" in said
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    at_once = configured(folder, counts=(4, 6, 8, 12), work="other")
    run(at_once)
    for count in (4, 6, 8, 12):
        ours, theirs = dump(later, count), dump(at_once, count)
        assert ours.path.read_bytes() == theirs.path.read_bytes() and np.array_equal(ours.norms, theirs.norms)


def test_whitened_rows_are_those_of_pca_on_the_gallery(folder):
    configuration = configured(folder)
    run(configuration)
    plain, white = whitened(configuration, 8, 3, 0.0), whitened(configuration, 8, 3, 1.0)
    readable = ~plain.unreadable
    assert plain.unreadable.sum() == 1 and not plain.descriptors[plain.unreadable].any()
    projections = plain.descriptors[readable].astype(float) * plain.norms[readable][:, None]
    np.testing.assert_allclose(projections.mean(0), 0, atol=1e-3)
    pca = PCA(whiten=True, svd_solver="full").fit(projections)
    expected = pca.transform(projections)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.abs(expected @ expected.T),
        np.abs(white.descriptors[readable] @ white.descriptors[readable].T),
        atol=2e-2,
    )
    query = whitened(configuration, 8, 3, 1.0, split="validation")
    np.testing.assert_allclose(np.linalg.norm(query.descriptors, axis=1), 1, rtol=1e-5)


def test_half_precision_on_disk(folder):
    whole, half = configured(folder), configured(folder, work="half", more=", half = true")
    whole_report = run(configured(folder))
    assert whole_report.paths
    run(half)
    for count in (4, 8):
        assert dump(half, count).descriptors.dtype == np.float16
        np.testing.assert_allclose(dump(half, count).descriptors, dump(whole, count).descriptors, atol=1e-3)
    assert whitened(half, 4, 6, 1.0).descriptors.dtype == np.float16


def test_an_order_file_is_part_of_the_recipe(folder):
    (folder / "order.json").write_text(json.dumps({"order": [5, 2, 9, 1, 0, 3, 4, 6]}))
    configuration = configured(folder, more=', selection = "order.json"')
    run(configuration)
    backbone = configuration.backbones[0]
    assert open_parts(table_of(configuration, backbone, backbone.parts[0])).order[:3].tolist() == [5, 2, 9]
    first = dump(configuration, 4).path
    (folder / "order.json").write_text("[7, 2, 9, 1, 0, 3, 4, 6]")
    run(configuration)
    assert dump(configuration, 4).path != first


def test_several_layers_and_forms(folder):
    configuration = configured(folder)
    text = (folder / "config.toml").read_text()
    start, end = text.index("parts ="), text.rindex("}") + 1
    tables = """parts = [
    { layer = 2, counts = [5], dims = [4] },
    { layer = 3, counts = [5], dims = [4], form = "NxN" },
    { layer = 3, counts = [5], dims = [4], selection = "random", seed = 3 },
]"""
    (folder / "config.toml").write_text(text[:start].replace("[3]", "[2, 3]") + tables + text[end:])
    configuration = load_configuration(folder / "config.toml", work=folder / "work")
    run(configuration)
    dumps = [whitened(configuration, 5, 4, 1.0, table=table) for table in range(3)]
    assert len({each.path for each in dumps}) == 3 and all(
        each.descriptors.shape == (22, 4) for each in dumps
    )


def test_what_cannot_be_is_said_at_once(folder):
    for counts, more, said in (
        ((4, 100_000), "", "counts 100000 exceed the"),
        ((4,), ', selection = "varance"', "varance' is no file.*variance, variance-mean, random"),
        ((4,), ', variant = "printd"', "did you mean 'printed'"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            run(configured(folder, counts=counts, work=f"work{said[:3]}", more=more))
    configured(folder)
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("layers = [3]", "layers = [2]"))
    with pytest.raises(ConfigurationError, match=r"layer 3: the layer is not among layers = \[2\]"):
        run(load_configuration(folder / "config.toml", work=folder / "work"))


def test_tables_of_one_layer_share_one_pass_over_the_sample(folder, monkeypatch):
    """Six tables would run the network over the sample twelve times; the bytes are those of a table by itself."""
    from features.extraction import learn_parts

    passes, layer_maps = [], learn_parts.layer_maps

    def counted(engine, images, layer):
        passes.append(layer)
        return layer_maps(engine, images, layer)

    alone = configured(folder, more=', selection = "random", seed = 3')
    run(alone)
    monkeypatch.setattr(learn_parts, "layer_maps", counted)
    text = configured(folder).path.read_text()
    table = "layer = 3, counts = [4, 8], dims = [3, 6], exponents = [0.0, 1.0]"
    several = f'parts = [{{ {table} }}, {{ {table}, selection = "random", seed = 3 }}]'
    start, end = text.index("parts ="), text.index("}", text.index("parts =")) + 1
    (folder / "config.toml").write_text(text[:start] + several + text[end:])
    together = load_configuration(folder / "config.toml", work=folder / "together")
    run(together)
    assert passes == [3]
    path = parts_path(together, "gallery", 4, table=1)
    assert path.read_bytes() == dump(alone, 4).path.read_bytes()
