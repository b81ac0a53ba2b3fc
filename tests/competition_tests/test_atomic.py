"""Files that are complete or not there."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from competition import atomic
from competition.atomic import remove_abandoned, write_bytes, write_json, write_text


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


HALF = """
import os, sys, time
sys.path.insert(0, {root!r})
from competition import atomic
atomic.os.fsync = lambda _: print("writing", flush=True) or time.sleep(60)
atomic.write_bytes({path!r}, b"half")
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    root, path = Path(__file__).resolve().parents[2], tmp_path / "file.json"
    write_text(path, "whole")
    code = HALF.format(root=str(root), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "writing\n"
        remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        process.kill()
        process.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"


def test_other_files_are_not_taken_for_abandoned(tmp_path):
    names = [".a.npy.0123456789ab.partial", "a.writing.json", "a.writing", ".extract.lock"]
    for name in names:
        (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_file_system_without_locks_is_written_to_and_nothing_is_removed_there(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("competition.atomic.fcntl.flock", refuse)
    assert write_text(tmp_path / "a.txt", "whole").read_text() == "whole"
    (tmp_path / ".b.txt.ab12cd34.writing").touch()
    remove_abandoned(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".b.txt.ab12cd34.writing", "a.txt"]


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


def test_files_are_written_on_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    write_text(tmp_path / "a.txt", "whole")
    (tmp_path / ".b.txt.ab12cd34.writing").touch()
    remove_abandoned(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".b.txt.ab12cd34.writing", "a.txt"]


def test_the_next_write_removes_what_a_killed_process_left_beside(tmp_path):
    (tmp_path / ".other.csv.ab12cd34.writing").write_bytes(b"half")
    path = write_text(tmp_path / "a.csv", "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_taken_for_an_abandoned_one_before_it_was_locked_is_written_all_the_same(
    tmp_path, monkeypatch
):
    made, locked = [], []
    mkstemp, flock = atomic.tempfile.mkstemp, atomic.fcntl.flock

    def noted(**options):
        made.append(mkstemp(**options))
        return made[-1]

    def late(handle, kind):
        if not locked:  # between the file's creation and its lock another process looks for abandoned ones
            locked.append(handle)
            os.unlink(made[-1][1])
        flock(handle, kind)

    monkeypatch.setattr(atomic.tempfile, "mkstemp", noted)
    monkeypatch.setattr(atomic.fcntl, "flock", late)
    path = write_text(tmp_path / "a.csv", "whole")
    assert path.read_text() == "whole" and len(made) == 2 and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_the_bytes(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device, 5 bytes to write") as caught:
        write_text(tmp_path / "a.csv", "whole")
    assert caught.value.filename == str(tmp_path / "a.csv")


DYING = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from competition.atomic import scratch_folder, temporary
with scratch_folder() as folder, temporary(Path({path!r})) as file:
    (folder / "large").mkdir()
    print(folder, flush=True)
    if {dies}:
        os.kill(os.getpid(), 9)
    sys.stdin.read()
"""


def test_scratch_folders_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root, told = str(Path(__file__).resolve().parents[2]), {}
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": {"TMPDIR": str(tmp_path)},
    }
    for dies in (True, False):
        code = DYING.format(root=root, path=str(tmp_path / "kept.npy"), dies=dies)
        told[dies] = subprocess.Popen([sys.executable, "-c", code], **pipes)
        dead_or_ready = Path(told[dies].stdout.readline().strip())
        told[dies].folder = dead_or_ready
        if dies:
            told[dies].wait()
            assert dead_or_ready.is_dir() and len(list(tmp_path.glob(".kept.npy*"))) == 1
    with atomic.scratch_folder() as folder, atomic.temporary(tmp_path / "kept.npy") as file:
        assert not told[True].folder.exists() and (told[False].folder / "large").is_dir()
        assert len(list(tmp_path.glob(".kept.npy*"))) == 2 and folder.is_dir() and file.exists()
    told[False].communicate()
    assert list(tmp_path.iterdir()) == []
