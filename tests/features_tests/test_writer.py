"""The row writer under every kind of dump: power cuts and a full disk at every operation end in the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from competition.errors import Top7Error
from competition.images import ImageSet
from features.dumps import open_dump, write_dump, writer
from features.dumps.derived import derived
from features.dumps.disk import Disk, DiskFull
from features.dumps.journal import journal_line, read_journal
from features.dumps.layout import Target
from features.extraction.batching import Window
from features.extraction.sample import SplitImages
from features.extraction.status import group_for, lacking_dumps, recover
from features.parts.blocks import block_files, write_blocks
from tests.features_tests.failing_disks import ForgetfulDisk, PowerLoss, Room

ROOT = Path(__file__).resolve().parents[2]
WINDOW_ROWS = 4
WIDTHS = (3, 5)
SETTINGS = {"device": "cpu"}
Work = Callable[[Path, ImageSet, list], None]  # fills a folder; notes each row it computes


def values(image_id: str, column: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(image_id.encode()), column])
    row = rng.normal(size=WIDTHS[column]).astype(np.float32)
    return row / np.linalg.norm(row)


def extraction(folder: Path, images: ImageSet, computed: list) -> None:
    """What a pass does, with made-up descriptors in place of a network's."""
    targets = [
        Target(folder / f"m.{column}.spoc-0.npy", {"layer": column}, column, "spoc") for column in range(2)
    ]
    recover(targets, folder)
    found = lacking_dumps(targets, SplitImages(images, folder))
    if not found:
        return
    group = group_for(found, WIDTHS, images, WINDOW_ROWS)
    group.start()
    for rows, needed in group.pending():
        window = Window(rows, SETTINGS)
        for row in needed:
            place = row - rows.start
            stamp = Path(images.paths[row]).stat()
            window.pictures[place] = (
                stamp.st_size,
                stamp.st_mtime_ns,
                hashlib.sha256(Path(images.paths[row]).read_bytes()).digest(),
            )
            if images.ids[row] == "c":
                window.unreadable[row] = "made up"
                continue
            computed.append(row)
            window.computed.append(place)
            for column in range(2):
                window.put(column, [place], values(images.ids[row], column)[None], row + 1 + 0.5 * column)
        group.write_window(window)
        if rows.start // WINDOW_ROWS % 2:
            group.commit()
    group.finish_group()
    group.disk.close()


def whole_dump(folder: Path, images: ImageSet, computed: list) -> None:
    """A dump made from another or from an external matrix."""
    path = folder / "m.0.made-0.npy"
    writer.complete(folder / f".{writer.label_of(path.name)}.journal")
    if path.with_suffix(".json").exists():
        return

    def rows(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        computed.extend(range(start, stop))
        made = np.stack([values(image_id, 0) for image_id in images.ids[start:stop]])
        return made, np.arange(start, stop, dtype=np.float32)

    write_dump(
        path,
        rows,
        shape=(len(images), WIDTHS[0]),
        dtype="float16",
        ids=images.ids,
        recipe={"made": 1},
        unreadable="made up",
    )


def matrices(folder: Path, images: ImageSet, computed: list) -> None:
    """What a step keeps."""

    def compute(start: int, stop: int) -> list[np.ndarray]:
        computed.extend(range(start, stop))
        made = np.stack([values(image_id, 1) for image_id in images.ids[start:stop]])
        return [made, np.arange(start, stop)]

    columns = {"rows": (WIDTHS[1], "float32"), "numbers": (0, "int64")}
    derived(folder, "x", {"a": 1}, len(images), columns, compute, block_rows=WINDOW_ROWS)


def blocks(folder: Path, images: ImageSet, computed: list) -> None:
    """The part detectors' sample: two files, of which the second needs what is written with the first."""
    maps = torch.from_numpy(np.stack([values(image_id, 0) for image_id in images.ids])).abs()

    def psi(first: int, end: int) -> list[torch.Tensor]:
        computed.append(first)
        return [part[:, None] * torch.arange(first + 1, end + 1)[:, None] for part in maps.split(WINDOW_ROWS)]

    done = {first for first, _, _ in block_files(folder)}
    for first, end in ((0, 2), (2, 5)):
        if first not in done:
            write_blocks(folder, first, end, len(images), WIDTHS[0], lambda: psi(first, end))


KINDS: dict[str, Work] = {
    "extraction": extraction,
    "whole dump": whole_dump,
    "matrices": matrices,
    "blocks": blocks,
}


def on(disk: Disk, work: Work, folder: Path, images: ImageSet) -> None:
    """Do the work on a disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "Disk", lambda: disk)
        work(folder, images, [])


def image_set(folder: Path, letters: str) -> ImageSet:
    folder.mkdir(exist_ok=True)
    for letter in letters:
        if not (folder / f"{letter}.jpg").exists():
            (folder / f"{letter}.jpg").write_text(letter)
    return ImageSet(tuple(letters), tuple(str(folder / f"{letter}.jpg") for letter in letters))


def finished(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def survive(
    tmp_path: Path, work: Work, before: ImageSet | None, images: ImageSet, *, seed: int, lying: bool = False
) -> int:
    """Cut the power at every operation in turn; returns how many cuts left files that differ from undisturbed ones."""

    def prepared(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if before is not None:
            work(folder, before, [])
        return folder

    reference = prepared("reference")
    work(reference, images, [])
    expected = finished(reference)
    wrong = 0
    for dies_at in range(10_000):
        folder = prepared(f"cut{dies_at}")
        disk = ForgetfulDisk(folder, dies_at, seed * 1000 + dies_at, lying)
        try:
            on(disk, work, folder, images)
        except PowerLoss:
            disk.blackout()
            work(folder, images, [])
            wrong += finished(folder) != expected
            continue
        assert finished(folder) == expected and dies_at > 8
        return wrong
    raise AssertionError("it never ended")


@pytest.mark.parametrize("kind", KINDS)
def test_power_loss_at_every_operation_of_a_first_run(tmp_path, kind):
    assert survive(tmp_path, KINDS[kind], None, image_set(tmp_path / "images", "abcdefghij"), seed=0) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_power_loss_at_every_operation_of_an_extension(tmp_path, seed):
    before = image_set(tmp_path / "images", "acdfgh")
    after = image_set(tmp_path / "images", "abcdeghij")  # f is gone, others stand between the old ones
    assert survive(tmp_path, extraction, before, after, seed=seed) == 0


@pytest.mark.parametrize("kind", ["extraction", "matrices"])
def test_the_layer_bites(tmp_path, monkeypatch, kind):
    """With a sync that does nothing, some cut must show, were it not for the check of what is taken over."""
    images = image_set(tmp_path / "images", "abcdefghij")
    monkeypatch.setattr(writer.RowWriter, "_is_whole", lambda *arguments: True)
    assert survive(tmp_path, KINDS[kind], None, images, seed=0, lying=True) > 0


def test_an_old_dump_stays_usable_until_the_new_one_is_finished(tmp_path):
    before, after = image_set(tmp_path / "images", "acdfgh"), image_set(tmp_path / "images", "abcdefghij")
    folder = tmp_path / "dumps"
    folder.mkdir()
    extraction(folder, before, [])
    disk = ForgetfulDisk(folder, 8, 0)
    with pytest.raises(PowerLoss):
        on(disk, extraction, folder, after)
    disk.blackout()
    assert np.array_equal(open_dump(folder / "m.1.spoc-0.npy", ids=before.ids).descriptors[1], np.zeros(5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills_up_at_any_operation_is_one_line_and_the_next_run_ends_in_the_same_bytes(
    tmp_path, monkeypatch, kind
):
    images, work = image_set(tmp_path / "images", "abcdefghij"), KINDS[kind]
    (tmp_path / "reference").mkdir()
    with monkeypatch.context() as patch:
        room = Room(patch, None)
        work(tmp_path / "reference", images, [])
    assert room.operations > 8
    for fills_at in range(room.operations):
        folder = tmp_path / f"full{fills_at}"
        folder.mkdir()
        with (
            monkeypatch.context() as patch,
            pytest.raises(
                Top7Error, match="the disk is full: make room there.*the same command again"
            ) as caught,
        ):
            Room(patch, fills_at)
            work(folder, images, [])
        assert "\n" not in str(caught.value)
        work(folder, images, [])
        assert finished(folder) == finished(tmp_path / "reference")


@pytest.mark.parametrize("kind", KINDS)
def test_room_is_reserved_before_anything_is_computed(tmp_path, monkeypatch, kind):
    images, computed = image_set(tmp_path / "images", "abcdefghij"), []
    folder = tmp_path / "dumps"
    folder.mkdir()
    Room(monkeypatch, 0)
    with pytest.raises(
        Top7Error,
        match="the disk is full: make room there .0.00 GB are needed for it.*the same command again",
    ):
        KINDS[kind](folder, images, computed)
    assert not computed and not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_where_the_system_cannot_reserve_zeros_are_written(tmp_path, monkeypatch):
    images = image_set(tmp_path / "images", "abcdefghij")
    for name in ("reserved", "written"):
        (tmp_path / name).mkdir()
        matrices(tmp_path / name, images, [])
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert finished(tmp_path / "reserved") == finished(tmp_path / "written")


def test_reserving_space_names_the_full_disk(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match="x.partial: the disk is full"):
        Disk().allocate(tmp_path / "x.partial", 100, b"")
    assert not (tmp_path / "x.partial").exists()


def test_a_disk_that_fills_up_within_a_journal_line_leaves_the_lines_before(tmp_path):
    """A limit on the file's size stands for the disk: the system takes a part, then refuses."""
    path = tmp_path / "x.journal"
    Disk().add_lines(path, journal_line({"window": 0}))
    before = path.read_bytes()
    code = f"""
import resource, signal
from pathlib import Path
from features.dumps.disk import Disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 5}, {len(before) + 5}))
try:
    Disk().add_lines(Path({str(path)!r}), b"{"x" * 40}\\n")
except OSError as error:
    print(type(error).__name__)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "OSError\n", found.stderr
    assert path.read_bytes() == before
    Disk().add_lines(path, journal_line({"window": 1}))
    assert [line["window"] for line in read_journal(path)[0]] == [0, 1]
