"""Files that are complete or not there."""

import json
import os

import pytest

from competition.atomic import write_bytes, write_json, write_text


def test_writing_and_replacing(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "ä\r\nb\n")
    assert path.read_bytes() == "ä\r\nb\n".encode()
    assert write_bytes(path, b"\x00").read_bytes() == b"\x00"
    assert json.loads(write_json(path, {"b": 1, "a": "ä"}).read_text("utf-8")) == {"a": "ä", "b": 1}
    assert path.read_text("utf-8").index('"a"') < path.read_text("utf-8").index('"b"')
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    path = write_text(tmp_path / "a.txt", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
