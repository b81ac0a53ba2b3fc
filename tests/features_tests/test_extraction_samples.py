"""`extract --limit` beside the whole gallery: dumps of its own, detectors in common, commands that know which to use."""

from __future__ import annotations

import numpy as np
import pytest

from competition.errors import ConfigurationError
from features.dumps import open_dump
from features.dumps.layout import dumps_folder
from features.extraction import backbone_pass, extracted_images, verify
from tests.features_tests.conftest import BACKBONE
from tests.features_tests.extraction_competition import Stops, layer_path, stopping_after

PARTS = BACKBONE + "parts = { layer = 0, counts = [4], dims = [3], training_images = 12 }\n"
EXTERNAL = '[[external]]\nname = "clip"\ngallery = "clip.npy"\n'


def ids_of(configuration) -> tuple[str, ...]:
    """The row ids of the dump that commands open."""
    path = layer_path(configuration, "gallery", 0, "spoc")
    return open_dump(path, ids=extracted_images(configuration, "gallery").ids).ids


def test_a_sample_never_touches_the_whole_gallerys_dumps(tiny, capsys):
    configuration = tiny.configured()
    tiny.run(configuration)
    before = tiny.contents(configuration)
    report = tiny.run(configuration, limit=8)
    assert report.limited == 8 and len(open_dump(report.paths[0]).ids) == 8
    assert tiny.contents(configuration) == before
    assert "the whole gallery is there: commands use it" in capsys.readouterr().err
    assert len(ids_of(configuration)) == 21
    assert tiny.run(configuration).images == 0


def test_commands_use_the_sample_until_the_whole_gallery_is_there(tiny, monkeypatch):
    configuration = tiny.configured()
    tiny.run(configuration, limit=8)
    assert (
        len(ids_of(configuration)) == 8 and verify(configuration, splits=("gallery",), progress=False).whole
    )
    with monkeypatch.context() as patched, pytest.raises(Stops):
        patched.setattr(backbone_pass, "StartedWindow", stopping_after(1))
        tiny.run(configuration)
    assert len(ids_of(configuration)) == 8, "an unfinished extraction takes nothing away"
    tiny.run(configuration)
    assert len(ids_of(configuration)) == 21
    whole = tiny.configured("whole")
    tiny.run(whole)
    assert tiny.contents(configuration) == tiny.contents(whole)
    assert tiny.run(configuration, limit=8).images == 0, "the sample's dumps are kept"


def test_two_samples_have_a_folder_each(tiny):
    configuration = tiny.configured()
    tiny.run(configuration, limit=8)
    first = dumps_folder(configuration, "gallery")
    tiny.run(configuration, limit=5)
    assert dumps_folder(configuration, "gallery") != first and len(ids_of(configuration)) == 5
    assert tiny.run(configuration, limit=8).images == 0 and dumps_folder(configuration, "gallery") == first


def test_part_detectors_are_those_of_the_whole_gallery(tiny):
    configuration, whole = tiny.configured(backbone=PARTS), tiny.configured("whole", PARTS)
    tiny.run(configuration, limit=4)
    tiny.run(configuration)
    tiny.run(whole)
    assert tiny.contents(configuration) == tiny.contents(whole)


def test_a_sample_takes_its_rows_of_an_external(tiny):
    rows = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32)
    np.save(tiny.folder / "clip.npy", rows)
    (tiny.folder / "clip.ids").write_text("".join(f"g{i:03d}\n" for i in range(0, 42, 2)))
    configuration = tiny.configured(backbone=EXTERNAL)
    dump = open_dump(tiny.run(configuration, limit=8).paths[0])
    expected = rows[[int(name[1:]) // 2 for name in dump.ids]]
    assert len(dump.ids) == 8
    assert np.allclose(
        dump.descriptors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6
    )


def test_files_that_cannot_be_looked_at_take_no_row_away(tiny):
    stored = tiny.folder / "mounted.png"
    tiny.image("g004").rename(stored)
    tiny.image("g004").symlink_to(stored)
    configuration = tiny.configured()
    tiny.run(configuration)
    before = tiny.contents(configuration)
    stored.rename(tiny.folder / "unmounted.png")
    assert tiny.run(configuration).images == 0
    assert tiny.contents(configuration) == before


def test_an_unmounted_gallery_drops_nothing(tiny):
    configuration = tiny.configured()
    tiny.run(configuration)
    before = tiny.contents(configuration)
    for number in range(10, 42, 2):
        tiny.image(f"g{number:03d}").unlink()
    tiny.draw(["g001"])
    with pytest.raises(ConfigurationError, match="16 images .* --drop-gone") as caught:
        tiny.run(configuration)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert tiny.contents(configuration) == before
