"""Listing images: one order, ids, what is passed over, what is an error; samples."""

import os
import pickle
import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from competition.configuration import Competition, Configuration, Tuning
from competition.configured import configured_images, split_images
from competition.errors import ConfigurationError, Top7Error
from competition.images import ImageSet, ids_digest, list_images, sample_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def image_set(n: int) -> ImageSet:
    ids = tuple(f"i{row:03d}" for row in range(n))
    return ImageSet(ids, tuple(f"{image_id}.jpg" for image_id in ids))


def test_recursive_sorted_by_id(tmp_path):
    touch(
        tmp_path, "b/a1.JPG", "a/b2.png", "c0.Jpeg", "b/deep/er/a0.webp", "x.gif", "y.bmp", "z.tif", "zz.TIFF"
    )
    images = list_images(tmp_path)
    assert images.ids == ("a0", "a1", "b2", "c0", "x", "y", "z", "zz")
    assert images.paths[:3] == tuple(
        str(tmp_path / name) for name in ("b/deep/er/a0.webp", "b/a1.JPG", "a/b2.png")
    )
    assert len(images) == len(images.paths) == 8 and len(images.others) == 0
    assert pickle.loads(pickle.dumps(images)) == images


def test_order_is_of_code_points_and_dots_stay_in_ids(tmp_path):
    touch(tmp_path, "a.b.jpg", "a-b.jpg", "B.jpg", "ä.jpg", "a'b.jpg")
    assert list_images(tmp_path).ids == ("B", "a'b", "a-b", "a.b", "ä")


def test_hidden_are_passed_over_and_others_are_returned(tmp_path):
    touch(tmp_path, "a.jpg", ".b.jpg", ".git/c.jpg", "notes.txt", "sub/labels.csv", "jpg", "Thumbs.db")
    images = list_images(tmp_path)
    assert images.ids == ("a",)
    assert [Path(path).name for path in images.others] == ["Thumbs.db", "jpg", "notes.txt", "labels.csv"]


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "real/a.jpg")
    os.symlink(tmp_path, tmp_path / "real" / "loop")
    assert list_images(tmp_path).ids == ("a",)


def test_folder_errors(tmp_path):
    with pytest.raises(
        Top7Error, match="^c.toml: .competition. gallery: the image folder .*no does not exist: expected"
    ):
        list_images(tmp_path / "no", origin="c.toml: [competition] gallery")
    touch(tmp_path, "a.txt")
    with pytest.raises(Top7Error, match="a.txt is a file: expected a folder of images$"):
        list_images(tmp_path / "a.txt")
    with pytest.raises(
        Top7Error, match="holds no image: expected files ending in .*.bmp, .*, found 1 other files$"
    ):
        list_images(tmp_path)


def test_same_id_twice(tmp_path):
    touch(tmp_path, "a/x.jpg", "b/x.png")
    expected = (
        f"the id 'x' is that of two images, {tmp_path}/a/x.jpg and {tmp_path}/b/x.png: "
        'write ids = "path" under [competition] to make the folder a part of every id, or rename'
    )
    with pytest.raises(Top7Error, match="^" + re.escape(expected) + "$"):
        list_images(tmp_path)
    assert list_images(tmp_path, ids="path").ids == ("a/x", "b/x")
    assert list_images(f"{tmp_path}/", ids="path").ids == ("a/x", "b/x")
    touch(tmp_path, "a/x.png")
    expected = (
        f"the id 'a/x' is that of two images, {tmp_path}/a/x.jpg and {tmp_path}/a/x.png: rename or remove one"
    )
    with pytest.raises(Top7Error, match="^" + re.escape(expected) + "$"):
        list_images(tmp_path, ids="path")


def test_ids_that_are_paths_sort_as_texts(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/2.jpg", "a-b/1.jpg", "top.jpg", "a/deep/1.jpg", "other/x.txt")
    images = list_images(tmp_path, ids="path")
    assert images.ids == ("a-b/1", "a/2", "a/deep/1", "b/1", "top")
    assert list(images.paths) == [str(tmp_path / f"{image_id}.jpg") for image_id in images.ids]


def test_all_bad_names_are_said_at_once(tmp_path):
    touch(tmp_path, "fine.jpg", *(f"bad,{number}.jpg" for number in range(3)), "one/x.jpg", "two/x.jpg")
    with pytest.raises(Top7Error) as caught:
        list_images(tmp_path)
    message = str(caught.value)
    assert "3 file names make ids that would break a CSV: rename them" in message
    assert (
        all(f"bad,{number}.jpg" in message for number in range(3)) and "the id 'x' is that of two" in message
    )
    touch(tmp_path, *(f"also,{number}.jpg" for number in range(1000)))
    with pytest.raises(Top7Error, match="1003 file names .*, and 983 more") as caught:
        list_images(tmp_path)
    assert len(str(caught.value)) < 10_000 and "\n" not in str(caught.value)
    touch(tmp_path / "folder", "a,b/1.jpg")
    with pytest.raises(Top7Error, match="would break a CSV"):
        list_images(tmp_path / "folder", ids="path")
    assert list_images(tmp_path / "folder").ids == ("1",)


def test_blanks_in_gallery_ids_break_kaggles_form(tmp_path):
    touch(tmp_path, "gallery/a b.jpg", "test/a b.jpg")
    competition = Competition("n", tmp_path / "gallery", test=tmp_path / "test", submission="kaggle")
    configuration = Configuration(Path("c.toml"), competition, (), (), Tuning())
    assert split_images(configuration, "test").ids == ("a b",)
    with pytest.raises(Top7Error, match='would break a CSV: .* blanks .submission = "kaggle"'):
        split_images(configuration, "gallery")


def test_what_is_missing_is_said_before_anything_is_listed(tmp_path):
    touch(tmp_path, "gallery/a,b.jpg", "val/c,d.jpg")
    competition = Competition(
        "n", tmp_path / "gallery", tmp_path / "val", tmp_path / "val.csv", tmp_path / "test"
    )
    configuration = Configuration(Path("c.toml"), competition, (), (), Tuning())
    expected = f"c.toml: [competition] test = {tmp_path}/test, labels = {tmp_path}/val.csv do not exist"
    with pytest.raises(Top7Error, match="^" + re.escape(expected)):
        configured_images(configuration)
    touch(tmp_path, "val.csv", "test/t.jpg")
    with pytest.raises(Top7Error, match="gallery.*a,b.jpg.*; .*validation.*c,d.jpg"):
        configured_images(configuration)
    assert configured_images(configuration, ["test"])["test"].ids == ("t",)


@pytest.mark.parametrize(
    "name", ["a,b.jpg", 'a"b.jpg', "a\nb.jpg", " a.jpg", "a .jpg", "a\tb.jpg", "a\udcffb.jpg"]
)
def test_ids_that_break_a_csv(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(
        Top7Error, match="makes an id that would break a CSV: rename it without commas, quotes"
    ) as caught:
        list_images(tmp_path)
    assert "\n" not in str(caught.value)


def test_split_images_names_the_configuration(tmp_path):
    configuration = Configuration(Path("c.toml"), Competition("n", tmp_path / "g"), (), (), Tuning())
    with pytest.raises(Top7Error, match="^c.toml: .competition. gallery: the image folder .* does not exist"):
        split_images(configuration, "gallery")
    with pytest.raises(
        ConfigurationError, match="^c.toml: .competition. has no test: add test = … with the folder"
    ):
        split_images(configuration, "test")


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5), st.sets(st.integers(0, 29)))
def test_sample(n, limit, seed, chosen):
    images = image_set(n)
    always = [images.ids[row] for row in chosen if row < n]
    sample = sample_images(images, limit, seed, always)
    assert len(sample) == min(n, max(limit, len(always)))
    assert set(always) <= set(sample.ids) <= set(images.ids) and list(sample.ids) == sorted(sample.ids)
    assert [Path(path).stem for path in sample.paths] == list(sample.ids)
    assert sample == sample_images(images, limit, seed, reversed(always))
    assert set(sample.ids) <= set(sample_images(images, limit + 1, seed, always).ids)


def test_sample_depends_on_the_seed():
    images = image_set(100)
    assert len({sample_images(images, 10, seed, ()).ids for seed in range(5)}) == 5


def test_digest():
    assert ids_digest(["a", "b"]) == sha256(b"a\nb\n").hexdigest()
    assert ids_digest(["b", "a"]) != ids_digest(["a", "b"]) != ids_digest(["ab"])


def test_grocery(shared):
    counts = {name: len(list_images(shared / "grocery" / name)) for name in ("gallery", "val", "test")}
    assert counts == {"gallery": 567, "val": 162, "test": 324}
