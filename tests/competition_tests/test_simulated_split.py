"""Sampled images, ids of photos, and the halves that teach and judge."""

import hashlib

import numpy as np
import pytest

from competition.configuration import Simulate
from competition.images import ImageSet
from competition.simulated_split import (
    first_drawn,
    judging,
    photo_id,
    photo_seed,
    photo_source,
    sampled_rows,
    simulated_images,
)

IDS = [f"n{number:04d}" for number in range(400)]


def test_ids_hold_the_gallery_id_and_the_number():
    for image_id in ("n01", "a@b", "@", "x@7"):
        for view in (0, 11):
            assert photo_source(photo_id(image_id, view)) == (image_id, view)
    assert photo_id("n01", 3) == "n01@3"


def test_seeds_differ_by_seed_image_and_number():
    seeds = {photo_seed(s, i, v) for s in range(3) for i in IDS[:50] for v in range(8)}
    assert len(seeds) == 3 * 50 * 8 and all(0 <= seed < 2**63 for seed in seeds)
    expected = int.from_bytes(hashlib.sha256(b"5/2/n0001").digest()[:8], "little") // 2
    assert photo_seed(5, "n0001", 2) == expected


def test_the_sample_is_seeded_and_hardly_moves_with_growth():
    rows = sampled_rows(IDS, Simulate(images=40, seed=1))
    naive = sorted(range(400), key=lambda row: hashlib.sha256(f"1/{IDS[row]}".encode()).digest())[:40]
    assert rows.tolist() == sorted(naive)
    assert sampled_rows(IDS, Simulate(images=1000)).tolist() == list(range(400))
    assert len(sampled_rows(IDS, Simulate(images=0))) == 0
    assert set(rows) != set(sampled_rows(IDS, Simulate(images=40, seed=2)))
    before = {IDS[row] for row in rows}
    grown = sorted(IDS + [f"m{number:04d}" for number in range(40)])
    after = {grown[row] for row in sampled_rows(grown, Simulate(images=40, seed=1))}
    assert before - after <= before and len(before & after) >= 30


def test_no_group_is_split_and_the_halves_are_even():
    groups = np.random.default_rng(0).integers(0, 120, len(IDS))
    judges = judging(IDS, groups, 3)
    for group in set(groups.tolist()):
        assert len(set(judges[groups == group].tolist())) == 1
    assert abs(int(judges.sum()) - 200) <= np.bincount(groups).max()
    assert not np.array_equal(judges, judging(IDS, groups, 4))
    backwards = judging(IDS[::-1], groups[::-1], 3)[::-1]  # the order of the rows decides nothing
    assert np.array_equal(judges, backwards)


@pytest.mark.parametrize("groups, judges", [([], 0), ([0], 0), ([0, 0, 0], 0), ([0, 1], 1)])
def test_few_groups(groups, judges):
    assert judging(IDS[: len(groups)], groups, 0).sum() == judges


def test_a_smaller_draw_is_part_of_a_larger_one():
    drawn = first_drawn(IDS, 50, 0)
    assert drawn == sorted(drawn) and len(drawn) == 50
    assert set(first_drawn(IDS, 20, 0)) < set(drawn)
    assert first_drawn(IDS, 1000, 0) == IDS


def test_photos_keep_their_files_and_seeds_in_any_order():
    gallery = ImageSet(tuple(IDS[:6]), tuple(f"{name}.jpg" for name in IDS[:6]))
    photos = simulated_images(gallery, Simulate(images=3, views=2, seed=9))
    assert len(photos) == 6 and gallery.view(0) is None
    turned = photos.rows([5, 0])
    for row, image_id in enumerate(turned.ids):
        source, view = photo_source(image_id)
        assert turned.paths[row] == f"{source}.jpg" and turned.view(row) == photo_seed(9, source, view)
