"""The page of part detectors: pictures, the curve, escaping; the ranking of images by response."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from competition.configuration import Parts
from competition.errors import ConfigurationError
from competition.images import list_images
from features.images.decode_ahead import read_ahead
from features.images.sizing import Sizing
from features.parts.exciting import most_exciting
from submissions.parts_page import overlay, write_parts_page
from submissions.report import environment


class Engine:
    """Maps: the red, green and blue of the picture in 2 x 2 cells."""

    network = SimpleNamespace(layers=["rgb"])

    def pictures(self, images, rows, *, scaled):
        assert not scaled
        return read_ahead(images, rows, (Sizing(8, "squash"),), workers=1, ahead=16)

    def maps(self, pixels):
        cells = torch.from_numpy(pixels).float().permute(0, 3, 1, 2).contiguous()
        return [torch.nn.functional.avg_pool2d(cells, 4)]

    def for_parts(self, maps):
        return maps


def test_most_exciting_images_and_their_weights(tmp_path):
    for name, colour in (("a", (200, 0, 0)), ("b", (90, 250, 0)), ("c", (200, 0, 0)), ("d", (0, 10, 0))):
        picture = np.zeros((8, 8, 3), dtype=np.uint8)
        picture[:4, :4] = colour
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    parts = Parts(layer="rgb", counts=(1,), dims=(1,))
    red, green, blue = most_exciting(Engine(), list_images(tmp_path), parts, [0, 1, 2], 2)
    assert [one.id for one in red] == ["a", "c"] and [one.id for one in green] == ["b", "d"] and blue == []
    assert red[0].response == pytest.approx(200)
    np.testing.assert_allclose(green[0].weights, [[1, 0], [0, 0]])
    assert green[0].pixels.shape == (8, 8, 3)


def test_overlay_is_red_where_the_weights_are_and_blue_where_not():
    uri = overlay(np.full((40, 20, 3), 200, dtype=np.uint8), np.array([[1.0, 1], [0, 0]], dtype=np.float32))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))).astype(int)
    assert picture.shape == (40, 20, 3)
    assert (picture[:8, :, 0] > picture[:8, :, 2] + 60).all() and (
        picture[-8:, :, 2] > picture[-8:, :, 0] + 30
    ).all()
    dead = overlay(np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 2), dtype=np.float32))
    assert dead.startswith("data:image/jpeg")


def rendered(variance: list[float]) -> str:
    item = {"id": "<script>", "response": 1.0, "pixels": None, "weights": None}
    section = {"title": "t & u", "subtitle": "s", "rows": [(3, [item])], "variance": variance, "count": 1}
    template = environment().get_template("parts.html")
    return template.render(title="<b>", sections=[section], overlay=lambda pixels, weights: "data:,")


def test_curve():
    page = rendered([4.0, 2.0, 0.0])
    assert 'points="0.0,0.0 320.0,40.0 640.0,80.0"' in page and '<line x1="320.0"' in page
    assert not any("<polyline" in rendered(variance) for variance in ([], [0.0, 0.0]))


def test_names_are_escaped():
    page = rendered([2.0, 1.0])
    assert "<script>" not in page and "&lt;script&gt;" in page and "t &amp; u" in page


def test_without_parts():
    configuration = SimpleNamespace(path="c.toml", backbones=())
    with pytest.raises(ConfigurationError, match="c.toml: no part detectors"):
        write_parts_page(configuration)
