"""Files that are complete or not there."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from competition import atomic
from competition.atomic import abandoned, remove_abandoned, write_bytes, write_json, write_text


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


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from competition import atomic
atomic.os.fsync = lambda _: os.kill(os.getpid(), 9)
atomic.write_bytes({path!r}, b"half")
"""


def aged(path: Path) -> Path:
    """The file as if it had been written to two hours ago for the last time."""
    then = path.stat().st_mtime - 7200
    os.utime(path, (then, then))
    return path


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    root, path = Path(__file__).resolve().parents[2], tmp_path / "file.json"
    aged(write_text(path, "whole"))
    code = KILLED.format(root=str(root), path=str(path))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (left,) = set(tmp_path.iterdir()) - {path}
    assert abandoned(tmp_path) == []  # another process may be writing it
    remove_abandoned(tmp_path)
    assert left.exists()
    aged(left)
    assert abandoned(tmp_path) == [left]
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"


def test_other_files_are_not_taken_for_abandoned(tmp_path):
    names = [".a.npy.0123456789ab.partial", "a.writing.json", "a.writing", ".extract.lock"]
    for name in names:
        (tmp_path / name).touch()
        aged(tmp_path / name)
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("lacking", ["the call", "the file system"])
def test_room_is_reserved_where_the_system_cannot_reserve(tmp_path, monkeypatch, lacking):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if lacking == "the call":
        monkeypatch.delattr(os, "posix_fallocate")
        monkeypatch.delattr(os, "fdatasync")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(atomic, "BLOCK_BYTES", 1000)
    path = tmp_path / "a"
    path.write_bytes(b"head")
    with open(path, "rb+") as stream:
        stream.truncate(3000)  # a hole, as a new memory map has
        before = os.fstat(stream.fileno()).st_blocks
        atomic.reserve(stream.fileno(), 10_500)
        atomic.sync_data(stream.fileno())
        assert os.fstat(stream.fileno()).st_blocks * 512 >= max(10_500, before)
    assert path.read_bytes() == b"head".ljust(10_500, b"\0")


def test_a_full_disk_names_the_file_and_the_bytes(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device, 5 bytes to write") as caught:
        write_text(tmp_path / "a.csv", "whole")
    assert caught.value.filename == str(tmp_path / "a.csv")
