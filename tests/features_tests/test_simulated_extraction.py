"""Simulated photos as a split: described like any image, resumable, verified; and which of them teach and judge."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from competition.configuration import SIMULATED, load_configuration
from competition.errors import ConfigurationError, Top7Error
from competition.simulated_split import photo_seed, photo_source, sampled_rows
from features.components import external_component, layer_component
from features.descriptors import gallery_ids
from features.dumps import beside, open_dump
from features.dumps.layout import dumps_folder
from features.extraction import backbone_pass, describe, plan, verify
from features.extraction.beside_dumps import CONTACT_SHEET
from features.images.decoding import decode
from features.images.simulated_photos import simulated_photo
from features.images.sizing import Sizing
from features.ranking.photos import judging_dumps, open_judging, open_teaching
from tests.features_tests.extraction_competition import (
    BACKBONE,
    Stops,
    configured,
    contents,
    counted,
    draw,
    layer_path,
    run,
    stopping_after,
)

IMAGES = 10
TABLE = "[simulate]\nimages = {}\nviews = {}\nseed = {}\n"


def simulating(folder, work="work", images=IMAGES, views=3, seed=0, backbone=BACKBONE):
    configured(folder, backbone)
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("[simulate]\nimages = 0\n", TABLE.format(images, views, seed)))
    return load_configuration(path, work=folder / work)


def photos(configuration, pooling="spoc", split=SIMULATED):
    return open_dump(layer_path(configuration, split, 3, pooling))


def components(configuration):
    return [layer_component(configuration.backbones[0], layer, "spoc") for layer in (0, 3)]


def test_photos_are_described_like_the_images_they_are(folder):
    """Each photo's row equals that of the photo made by hand and extracted as a gallery image."""
    configuration = simulating(folder)
    report = run(configuration)
    dump = photos(configuration)
    sampled = [
        gallery_ids(configuration)[row]
        for row in sampled_rows(gallery_ids(configuration), configuration.simulate)
    ]
    assert list(dump.ids) == [f"{name}@{view}" for name in sampled for view in range(3)]
    assert report.images == 37 + 5 + 3 * IMAGES and verify(configuration, progress=False).whole
    by_hand = folder / "by_hand"
    by_hand.mkdir()
    for name in dump.ids:
        source, view = photo_source(name)
        pixels = np.asarray(
            Image.open(folder / "gallery" / f"{source}.jpg")
        )  # 40 × 30: none is shrunk before
        photo = simulated_photo(pixels, photo_seed(0, source, view))
        Image.fromarray(photo).save(by_hand / f"{name}.png")
    from competition.images import list_images

    described = describe(
        configuration, list_images(by_hand), folder / "described", device="cpu", progress=False
    )
    found = {path.name: path for path in described.paths}
    for pooling in ("spoc", "mac"):
        mine = photos(configuration, pooling)
        assert np.array_equal(mine.descriptors, open_dump(found[mine.path.name]).descriptors)
    assert (dumps_folder(configuration, SIMULATED) / CONTACT_SHEET).is_file()
    assert run(configuration).images == 0


def test_large_images_are_shrunk_before_they_are_photographed():
    import io

    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((900, 600)).save(stream, "PNG")
    for resize, shape in (("squash", (64, 64)), ("pad", (64, 64))):
        (found,) = decode(stream.getvalue(), (Sizing(64, resize),), 5)
        assert found.shape == (*shape, 3)
    (kept,) = decode(stream.getvalue(), (Sizing(64, "keep"),), 5)
    assert max(kept.shape[:2]) <= 64


def test_killed_anywhere_it_goes_on_to_the_same_bytes(folder, monkeypatch):
    expected = contents(run(simulating(folder, "once")) and simulating(folder, "once"))
    for windows in (5, 7):
        configuration = simulating(folder, f"work{windows}")
        monkeypatch.setattr(backbone_pass, "StartedWindow", stopping_after(windows))
        with pytest.raises(Stops):
            run(configuration)
        monkeypatch.undo()
        monkeypatch.setattr("features.extraction.settings.WINDOW_ROWS", 8)
        monkeypatch.setattr("features.extraction.settings.BATCH_PIXELS", 4 * 32 * 32)
        run(configuration)
        assert contents(configuration) == expected


def test_a_changed_image_has_its_photos_made_again_and_a_damaged_one_has_none(folder, monkeypatch):
    configuration = simulating(folder, images=37, views=2)
    run(configuration)
    before = np.array(photos(configuration).descriptors)
    sizes = counted(monkeypatch)
    draw(folder / "gallery", ["g004"], seed=9)
    (folder / "gallery" / "g006.jpg").write_bytes(b"no image")
    assert run(configuration).images == 2 * 1 + 2 * 2
    dump = photos(configuration)
    assert sum(sizes) == 1 + 2
    row = {name: number for number, name in enumerate(dump.ids)}
    same = [number for name, number in row.items() if photo_source(name)[0] not in ("g004", "g006")]
    assert np.array_equal(dump.descriptors[same], before[same])
    for view in (0, 1):
        assert not np.array_equal(dump.descriptors[row[f"g004@{view}"]], before[row[f"g004@{view}"]])
        assert dump.unreadable[row[f"g006@{view}"]]


def test_growth_takes_over_what_is_still_drawn(folder):
    configuration = simulating(folder)
    run(configuration)
    before = set(photos(configuration).ids)
    draw(folder / "gallery", [f"h{number:02d}" for number in range(9)], seed=4)
    report = run(configuration)
    after = set(photos(configuration).ids)
    assert before != after and report.images == 9 + len(after - before)


def test_damage_is_found_and_mended(folder):
    configuration = simulating(folder)
    run(configuration)
    dump = photos(configuration)
    data = bytearray(dump.path.read_bytes())
    data[-3] ^= 255
    dump.path.write_bytes(bytes(data))
    report = verify(configuration, progress=False)
    assert report.damaged == {dump.path: [dump.ids[-1]]}
    assert run(configuration).images == 1 and verify(configuration, progress=False).whole


def test_another_seed_has_dumps_of_its_own_and_none_where_none_are_asked_for(folder):
    configuration = simulating(folder)
    run(configuration)
    other = simulating(folder, seed=1)
    assert run(other).images == 3 * IMAGES
    assert set(photos(other).ids) != set(photos(configuration).ids)
    assert run(configuration).images == 0
    off = simulating(folder, images=0)
    assert run(off).images == 0 and verify(off, progress=False).whole
    with pytest.raises(ConfigurationError, match=r"no simulated photos: add \[simulate\] images above 0"):
        open_teaching(off, components(off), gallery_ids(off))


def test_under_a_limit_the_photos_are_of_the_sample(folder):
    configuration = simulating(folder)
    run(configuration, limit=12)
    ids = gallery_ids(configuration)
    assert len(ids) == 12 and {photo_source(name)[0] for name in photos(configuration).ids} <= set(ids)
    limited = photos(configuration).path
    run(configuration)
    assert photos(configuration).path != limited and beside(limited, ".json").exists()


def test_the_plan_says_how_many_photos(folder):
    said = plan(simulating(folder), device="cpu").sentence()
    assert "test_resnet on simulated: 30 photos of gallery images, 4 dumps" in said


def alike_by_hand(configuration):
    """(n, n) bool, by cosine about the mean in float64."""
    rows = np.asarray(photos(configuration, split="gallery").descriptors, dtype=np.float64)
    rows = rows - rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T >= 0.95


def test_halves_share_no_image_nor_its_like(folder):
    for number in range(5):  # twins, some of them sampled together
        copied = (folder / "gallery" / f"g{number:03d}.jpg").read_bytes()
        (folder / "gallery" / f"t{number:03d}.jpg").write_bytes(copied)
    configuration = simulating(folder, images=30, views=3)
    run(configuration)
    ids = gallery_ids(configuration)
    dumps, teaching = open_teaching(configuration, components(configuration), ids)
    found = open_judging(configuration, ids)
    alike = alike_by_hand(configuration)
    assert alike[ids.index("g000"), ids.index("t000")]
    taught, judged = set(teaching[:, 1].tolist()), set(found.gallery_rows.tolist())
    assert len(taught | judged) == 30 and not taught & judged and min(len(taught), len(judged)) >= 10
    assert not alike[np.ix_(sorted(taught), sorted(judged))].any()
    for place, (name, row) in enumerate(zip(found.ids, found.gallery_rows.tolist())):
        assert photo_source(name)[0] == ids[row]
        assert found.correct[place].tolist() == np.flatnonzero(alike[row]).tolist()
    whole = photos(configuration)
    place = {name: number for number, name in enumerate(whole.ids)}
    queries = judging_dumps(configuration, components(configuration), found.ids)
    assert np.array_equal(queries[1].descriptors, whole.descriptors[[place[name] for name in found.ids]])
    assert queries[1].ids == found.ids and len(queries) == 2
    for row, gallery_row in teaching.tolist():
        assert photo_source(dumps[0].ids[row])[0] == ids[gallery_row]
    for group in set(found.groups.tolist()):
        rows = set(found.gallery_rows[found.groups == group].tolist())
        others = judged - rows
        assert not alike[np.ix_(sorted(rows), sorted(others))].any()
    few = open_judging(configuration, ids, limit=7)
    assert len(few.ids) == 7 and set(few.ids) < set(found.ids)


def test_unreadable_photos_neither_teach_nor_judge(folder):
    for name in ("g003", "g004", "g005"):
        (folder / "gallery" / f"{name}.jpg").write_bytes(b"no image")
    configuration = simulating(folder, images=37, views=2)
    assert [split for split, *_ in run(configuration).unreadable] == ["gallery"] * 3
    ids = gallery_ids(configuration)
    rows = set(open_teaching(configuration, components(configuration), ids)[1][:, 1].tolist())
    rows |= set(open_judging(configuration, ids).gallery_rows.tolist())
    assert {ids[row] for row in rows} == set(ids) - {"g003", "g004", "g005"}


def test_what_is_lacking_is_said(folder):
    configuration = simulating(folder)
    ids = tuple(f"g{number:03d}" for number in range(37))
    with pytest.raises(Top7Error, match="run ./run.sh extract"):
        open_judging(configuration, ids)
    run(configuration)
    more = simulating(folder, views=4)
    with pytest.raises(Top7Error, match="holds 30 rows, expected 40 images: run ./run.sh extract again"):
        open_judging(more, ids)
    single = simulating(folder, images=1)
    run(single)
    with pytest.raises(
        ConfigurationError, match="no simulated photo can judge: the 1 sampled images form 1 groups"
    ):
        open_judging(single, ids)


def test_descriptors_made_elsewhere_have_no_photos(folder):
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(37, 4)).astype(np.float32))
    (folder / "x.ids").write_text("".join(f"g{number:03d}\n" for number in range(37)))
    configuration = simulating(folder, backbone=BACKBONE + '[[external]]\nname = "x"\ngallery = "x.npy"\n')
    run(configuration)
    external = external_component(configuration.externals[0])
    with pytest.raises(ConfigurationError, match="external/x: descriptors made elsewhere cannot describe"):
        open_teaching(configuration, [external], gallery_ids(configuration))
