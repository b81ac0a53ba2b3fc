"""The embedded competition: same seed, same bytes; counts and labels as promised; truth out of tuning's reach."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from competition.configuration import load_configuration
from competition.configured import split_images, validation_labels
from competition.errors import Top7Error
from competition.mini import build
from competition.mini.build import Sizes, draw, label_bytes, plan_contest
from competition.mini.products import draw_family

SMALL = Sizes(families=3, members=2, lookalikes=2, strangers=2, queries=5)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "competition"
    return build(folder, seed=3, processes=1, sizes=SMALL)


def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(small, tmp_path):
    again = build(tmp_path / "again", seed=3, processes=2, sizes=SMALL)
    assert digests(again.parent) == digests(small.parent)
    other = build(tmp_path / "other", seed=4, processes=1, sizes=SMALL)
    pictures = {name: value for name, value in digests(small.parent).items() if name.startswith("test/")}
    assert not set(pictures.values()) & set(digests(other.parent).values())


def test_one_that_is_there_is_kept_and_strangers_files_are_not_touched(small, tmp_path):
    picture = next((small.parent / "test").iterdir())
    before = picture.stat().st_mtime_ns
    assert build(small.parent, seed=3, processes=1, sizes=SMALL) == small
    assert picture.stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(Top7Error, match="did not draw"):
        build(tmp_path / "mine", sizes=SMALL)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_the_configuration_reads_and_the_truth_is_out_of_its_reach(small):
    configuration = load_configuration(small)
    competition = configuration.competition
    gallery, queries = split_images(configuration, "gallery"), split_images(configuration, "validation")
    labels = validation_labels(configuration, queries.ids, gallery.ids)
    assert len(labels) == 5 and all(1 <= len(correct) <= 3 for correct in labels.values())
    named = [competition.gallery, competition.validation, competition.labels, competition.test]
    truth = small.parent / "held_back" / "test.csv"
    assert truth.is_file() and not any(truth == path or path in truth.parents for path in named)


@pytest.mark.parametrize("seed", range(5))
def test_the_contest_has_what_was_promised(seed):
    contest = plan_contest(seed)
    gallery = [picture for picture in contest.pictures if picture.name.startswith("gallery/")]
    ids = [picture.name.rpartition("/")[2] for picture in gallery]
    assert len(set(ids)) == len(ids) and all(not picture.photo for picture in gallery)
    shown: dict[object, int] = {}
    for picture in gallery:
        shown[picture.product] = shown.get(picture.product, 0) + 1
    sizes = Sizes()
    asked_for = sizes.families * sizes.members
    distractors = sizes.families * sizes.lookalikes + sizes.strangers
    assert asked_for >= 150 and distractors >= 300 and max(shown.values()) == 3
    assert len(gallery) - distractors == sum(
        len(contest_ids) for contest_ids in _positives(contest, gallery).values()
    )
    for truth in (contest.validation, contest.test):
        assert len(truth) == 100
        for query, correct in truth.items():
            product = next(p.product for p in contest.pictures if p.name.endswith(f"/{query}"))
            # the correct ids are exactly the gallery pictures of the product in the photo
            assert set(correct) == {name for name, picture in zip(ids, gallery) if picture.product == product}
            assert 1 <= len(correct) <= 3


def _positives(contest, gallery):
    """Gallery pictures by asked-for product: the first `members` of each family, found by drawing the families again."""
    from competition.mini.build import STREAM, Sizes

    sizes, generator = Sizes(), np.random.default_rng([STREAM, _seed_of(contest), 0])
    found = {}
    for _ in range(sizes.families):
        family = draw_family(generator, sizes.members + sizes.lookalikes)
        for product in family[: sizes.members]:
            generator.choice((1, 2, 3), p=(0.4, 0.35, 0.25))
            found[product] = [picture.name for picture in gallery if picture.product == product]
    return found


def _seed_of(contest) -> int:
    return contest.pictures[0].seed[1]


def test_pictures_are_jpegs_that_depend_on_their_own_seed_alone():
    contest = plan_contest(0, SMALL)
    photo = next(picture for picture in contest.pictures if picture.photo)
    data = draw(photo)
    np.random.seed(1)
    assert draw(photo) == data
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG" and image.mode == "RGB" and min(image.size) >= 200


def test_the_label_file_looks_like_the_real_one():
    assert label_bytes({"v000001": ("n0001_0000011",), "v000002": ("n0001_0000001", "n0002_0000002")}) == (
        b"\xef\xbb\xbfValidation Image ID,Training Image ID\nv000001,n0001_0000011\n"
        b"v000002,n0001_0000001,n0002_0000002\n"
    )


def test_families_share_their_packaging_and_differ():
    family = draw_family(np.random.default_rng(5), 6)
    assert len({product.kind for product in family}) == 1 and len({product.shape for product in family}) == 1
    assert len(set(family)) == 6


def test_what_a_killed_drawing_left_is_removed(tmp_path):
    left = tmp_path / ".competition.partial"
    (left / "gallery").mkdir(parents=True)
    (left / "gallery" / "half.jpg").write_bytes(b"half")
    config = build(tmp_path / "competition", seed=3, processes=1, sizes=SMALL)
    assert not left.exists() and not (config.parent / "gallery" / "half.jpg").exists()
