"""Queries by views: the mean of image, middle and their mirror images, beside the dumps of the images as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from competition.images import list_images
from features.components import layer_component
from features.descriptors import open_components
from features.dumps.layout import dumps_folder, views_folder
from features.extraction import describe, verify
from features.images.decoding import decode
from features.images.sizing import Sizing, middle
from features.recipes.kept import named_recipe
from features.recipes.patterns import matches
from features.recipes.recipe import resolve
from tests.features_tests.extraction_competition import configured, contents, draw, run

SQUARE = (32, 32)  # the network's size: the whole image is not resized


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "gallery", [f"g{n}" for n in range(12)], 1, SQUARE)
    draw(tmp_path / "val", ["v0", "v1", "v2"], 2, SQUARE)
    (tmp_path / "val.csv").write_text("v0,g0\nv1,g1\nv2,g2\n")
    return tmp_path


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def component(configuration, views=None, pooling="spoc"):
    return layer_component(configuration.backbones[0], 3, pooling, views)


@pytest.mark.parametrize("pooling", ["spoc", "mac"])
def test_a_query_is_the_mean_of_its_four_views(folder, pooling):
    """Against the four pictures made by hand and described as images."""
    configuration = configured(folder, views=True)
    run(configuration)
    views = folder / "views"
    views.mkdir()
    for path in sorted((folder / "val").iterdir()):
        image = Image.open(path).convert("RGB")
        middle_part = image.crop((3, 3, 29, 29)).resize(SQUARE, Image.Resampling.BILINEAR)  # 26 of 32
        for number, view in enumerate((image, middle_part)):
            view.save(views / f"{path.stem}-{number}.png")
            ImageOps.mirror(view).save(views / f"{path.stem}-{number}-mirrored.png")
    plain = replace(
        configuration, backbones=tuple(replace(b, query_views=False) for b in configuration.backbones)
    )
    describe(plain, list_images(views), folder / "by-hand", device="cpu", progress=False)
    (each,) = open_components(
        plain, [component(plain, pooling=pooling)], "validation", None, folder / "by-hand"
    )
    expected = unit(np.asarray(each.descriptors).reshape(3, 4, -1).mean(axis=1))
    (found,) = open_components(configuration, [component(configuration, True, pooling)], "validation", None)
    assert found.ids == ("v0", "v1", "v2")
    np.testing.assert_allclose(found.descriptors, expected, atol=2e-5)
    (as_they_are,) = open_components(configuration, [component(configuration)], "validation", None)
    assert np.abs(as_they_are.descriptors - expected).max() > 0.01


def test_nothing_else_changes(folder):
    """The other dumps have the bytes that they have without views, and the gallery has none."""
    run(configured(folder, views=True, work="with"))
    run(configuration := configured(folder, work="without"))
    with_views = contents(replace_work(configuration, folder / "with"), (".npy",))
    without = contents(configuration, (".npy",))
    assert without == {name: data for name, data in with_views.items() if "views/" not in name}
    assert {name.split("/")[0] for name in with_views if "views/" in name} == {"validation"}
    of_views, plain = (
        [layer_component(configuration.backbones[0], 3, "spoc", views)] for views in (True, None)
    )
    paths = [open_components(configuration, each, "gallery", None)[0].path for each in (of_views, plain)]
    assert paths[0] == paths[1]


def replace_work(configuration, work):
    return replace(configuration, competition=replace(configuration.competition, work=work))


def test_views_are_computed_once_and_verified(folder):
    configuration = configured(folder, views=True)
    assert run(configuration).images == 12 + 3 + 3
    assert run(configuration).images == 0
    (path,) = views_folder(dumps_folder(configuration, "validation")).glob("*3.spoc-????????????.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert verify(configuration, progress=False).damaged == {path: ["v2"]}
    run(configuration)
    assert verify(configuration, progress=False).whole


def test_described_queries_have_the_bytes_that_extract_gives(folder):
    configuration = configured(folder, views=True)
    run(configuration)
    describe(configuration, list_images(folder / "val"), folder / "asked", device="cpu", progress=False)
    of_views = [component(configuration, True)]
    (extracted,) = open_components(configuration, of_views, "validation", None)
    (described,) = open_components(configuration, of_views, "validation", None, folder / "asked")
    assert extracted.descriptors.tobytes() == described.descriptors.tobytes()


def test_recipes_take_views_where_there_are_some_and_say_where_not(folder):
    pattern = {"layer": "last", "pooling": "spoc", "views": True}
    for views in (True, False):
        configuration, notes = configured(folder, views=views), []
        (found,) = matches(pattern, configuration, "recipe", notes)
        assert bool(found.views) == views and bool(notes) != views
        resolved = resolve(named_recipe("top7"), configuration)
        assert {bool(part.views) for part in resolved.components} == {views}
    in_format = replace(
        configuration,
        competition=replace(configuration.competition, format="holidays"),
        backbones=tuple(replace(b, query_views=None) for b in configuration.backbones),
    )
    assert not matches(pattern, in_format, "recipe", [])[0].views


def test_the_middle_is_cut_out_before_the_size(tmp_path):
    """Against Pillow: the box, then the size."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    (found,) = decode(path.read_bytes(), (Sizing(32, crop=0.5),))
    expected = Image.fromarray(pixels).crop((20, 12, 60, 37))
    assert middle(80, 50, 0.5) == (20, 12, 60, 37)
    np.testing.assert_array_equal(
        found, np.asarray(expected.resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=3.0))
    )
    assert decode(path.read_bytes(), (Sizing(0, "keep", crop=0.5),))[0].shape == (32, 40, 3)
