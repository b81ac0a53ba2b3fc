"""The progress line: which of decoding and network is the limit, in one process and in several."""

from __future__ import annotations

import sys
import time

import pytest

from features.extraction import settings
from features.extraction.backbone_pass import limit_named
from features.extraction.engine import Engine
from features.images import decode_ahead
from tests.features_tests.test_extraction_parallel import working_here


def slowed(monkeypatch, decoding_s: float, network_s: float) -> None:
    """Seconds an image of decoding, by one thread, and of the network, which runs beside it."""
    read, describe = decode_ahead.read_picture, Engine.describe

    def slow_read(*arguments):
        time.sleep(decoding_s)
        return read(*arguments)

    def slow_describe(self, views, targets):
        time.sleep(network_s * len(views[0]))
        return describe(self, views, targets)

    monkeypatch.setattr(decode_ahead, "read_picture", slow_read)
    monkeypatch.setattr(Engine, "describe", slow_describe)
    monkeypatch.setattr(
        sys.modules["features.extraction.extract"], "seconds_an_image", lambda *arguments: 0.0
    )
    monkeypatch.setattr(settings, "available_cores", lambda: 1)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("decoding_s, network_s, limit", [(0.04, 0.02, "decoding"), (0.0, 0.04, "network")])
def test_the_limit_is_named(tiny, monkeypatch, capsys, jobs, decoding_s, network_s, limit):
    slowed(monkeypatch, decoding_s, network_s)
    working_here(monkeypatch)
    monkeypatch.setattr(settings, "WINDOW_ROWS", 21)
    tiny.run(tiny.configured(), jobs=jobs, progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert f"limit: {limit}" in last and "% of the time waiting for images" in last


@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_taken_over_name_no_limit(tiny, monkeypatch, capsys, jobs):
    working_here(monkeypatch)
    configuration = tiny.configured()
    tiny.run(configuration)
    tiny.image("g004").unlink()
    capsys.readouterr()
    assert tiny.run(configuration, jobs=jobs, progress=True, drop_gone=True).images == 0
    said = capsys.readouterr().err
    assert "20/20" in said and "limit" not in said


def test_a_network_that_hardly_waits_is_the_limit():
    assert limit_named(0.05) == "limit: network, 5 % of the time waiting for images"
    assert limit_named(0.3) == "limit: decoding, 30 % of the time waiting for images"
