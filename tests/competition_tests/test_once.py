"""Within a command, a question is answered once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from competition.configuration import load_configuration
from competition.configured import split_images
from competition.once import once, one_command


def test_each_argument_is_asked_once_within_a_command_and_always_outside():
    asked = []

    def square(number: int) -> int:
        asked.append(number)
        return number * number

    assert [once(square, 3), once(square, 3)] == [9, 9] and asked == [3, 3]
    with one_command():
        assert [once(square, 3), once(square, 4), once(square, 3)] == [9, 16, 9]
        with pytest.raises(TypeError):
            once(square, "a", "b")
    assert asked == [3, 3, 3, 4] and once(square, 3) == 9 and len(asked) == 5


def test_a_command_sees_the_images_that_were_there_when_it_looked(tmp_path: Path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "c.toml").write_text(
        '[competition]\nname = "a"\ngallery = "gallery"\n[[backbone]]\nmodel = "vgg16"\nlayers = [0]\npooling = ["mac"]\n'
    )
    configuration = load_configuration(tmp_path / "c.toml")
    Image.new("RGB", (8, 8)).save(tmp_path / "gallery" / "a.png")
    with one_command():
        assert split_images(configuration, "gallery").ids == ("a",)
        Image.new("RGB", (8, 8)).save(tmp_path / "gallery" / "b.png")
        assert split_images(configuration, "gallery").ids == ("a",)
    assert split_images(configuration, "gallery").ids == ("a", "b")
