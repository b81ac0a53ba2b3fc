"""Power loss at every operation: a disk that forgets what was not synced, and dumps that come out whole all
the same.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from pathlib import Path

import numpy as np
import pytest

from competition.images import ImageSet, PathList
from features.dumps import open_dump, writer
from features.dumps.disk import Disk
from features.dumps.layout import Target
from features.extraction.backbone_pass import pending
from features.extraction.batching import blank_window
from features.extraction.status import dump_statuses, groups_for, recover

WINDOW_ROWS = 4
WIDTHS = (3, 5)
SETTINGS = {"device": "cpu"}


class PowerLoss(Exception):
    pass


class ForgetfulDisk(Disk):
    """Real files; at `blackout` writes since the last sync are lost, kept or torn, and so are names since the
    folder's.

    The power goes at operation number `dies_at`. lying: sync does nothing.
    """

    def __init__(self, folder: Path, dies_at: int, seed: int, lying: bool = False) -> None:
        super().__init__()
        self.folder, self.dies_at, self.random, self.lying = folder, dies_at, random.Random(seed), lying
        self.operations = 0
        self.names = {
            path: path.read_bytes() for path in folder.iterdir()
        }  # durable names and their files' bytes
        self.identity = {path: path for path in self.names}  # which durable file a present name shows
        self.safe = dict(self.names)  # durable bytes by file
        self.pending: list[tuple] = []  # changes of names since the folder's last sync

    def _tick(self) -> None:
        self.operations += 1
        if self.operations > self.dies_at:
            raise PowerLoss

    def _file(self, path: Path) -> object:
        return self.identity.get(path, path)

    def allocate(self, path, size_bytes, head):
        self._tick()
        super().allocate(path, size_bytes, head)
        file = object()
        self.identity[path] = file
        self.safe[file] = path.read_bytes()
        self.pending.append(("name", path, file))

    def write_at(self, path, offset, data):
        self._tick()
        super().write_at(path, offset, data)

    def add_lines(self, path, data):
        self._tick()
        if path not in self.identity:
            file = object()
            self.identity[path] = file
            self.pending.append(("name", path, file))
        super().add_lines(path, data)
        self.safe[self._file(path)] = path.read_bytes()

    def truncate(self, path, size_bytes):
        self._tick()
        super().truncate(path, size_bytes)
        self.safe[self._file(path)] = path.read_bytes()

    def sync(self, path):
        self._tick()
        super().sync(path)
        if not self.lying:
            self.safe[self._file(path)] = path.read_bytes()

    def write_file(self, path, data):
        self._tick()
        super().write_file(path, data)
        file = object()
        self.identity[path], self.safe[file] = file, data
        self.pending.append(("name", path, file))
        self._settle()

    def replace(self, source, target):
        self._tick()
        super().replace(source, target)
        file = self.identity.pop(source)
        self.identity[target] = file
        self.pending.append(("move", source, target, file))

    def remove(self, path):
        self._tick()
        super().remove(path)
        if self.identity.pop(path, None) is not None:
            self.pending.append(("gone", path))

    def sync_folder(self, folder):
        self._tick()
        super().sync_folder(folder)
        self._settle()

    def _settle(self) -> None:
        for change in self.pending:
            self._apply(change)
        self.pending = []

    def _apply(self, change: tuple) -> None:
        match change:
            case ("name", path, file):
                self.names[path] = file
            case ("move", source, target, file):
                self.names.pop(source, None)
                self.names[target] = file
            case ("gone", path):
                self.names.pop(path, None)

    def blackout(self) -> None:
        """Leave in the folder what a power cut might."""
        present = {self._file(path): path.read_bytes() for path in self.folder.iterdir()}
        for change in self.pending:
            if self.random.random() < 0.5:
                self._apply(change)
        survivors = {}
        for path, file in self.names.items():
            file = path if isinstance(file, bytes) else file
            survivors[path] = self._torn(self.safe.get(file, b""), present.get(file))
        self.close()
        for path in self.folder.iterdir():
            path.unlink()
        for path, data in survivors.items():
            path.write_bytes(data)

    def _torn(self, safe: bytes, present: bytes | None) -> bytes:
        """Each 16 bytes that were not synced are on the disk or not."""
        if present is None or len(present) != len(safe):
            return safe
        blocks = [present if self.random.random() < 0.4 else safe for _ in range(0, len(safe), 16)]
        return b"".join(block[at : at + 16] for block, at in zip(blocks, range(0, len(safe), 16)))


def values(image_id: str, column: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(image_id.encode()), column])
    row = rng.normal(size=WIDTHS[column]).astype(np.float32)
    return row / np.linalg.norm(row)


def work(folder: Path, images: ImageSet, disk: Disk) -> None:
    """What a pass does, with made-up descriptors in place of a network's."""
    targets = [
        Target(folder / f"m.{column}.spoc-0.npy", {"layer": column}, column, "spoc") for column in range(2)
    ]
    recover(targets, folder, disk)
    found = dump_statuses(targets, images)
    groups = groups_for(found, {t.path: w for t, w in zip(targets, WIDTHS)}, images, WINDOW_ROWS, disk)
    if not groups:
        return
    for group in groups:
        group.start()
    columns = {target.path.name: column for column, target in enumerate(targets)}
    for task in pending(groups):
        window = blank_window(task.rows, WIDTHS)
        for row in task.needed:
            place = row - task.rows.start
            stamp = Path(images.paths.texts[row]).stat()
            window.pictures[place] = (
                stamp.st_size,
                stamp.st_mtime_ns,
                hashlib.sha256(images.paths[row].read_bytes()).digest(),
            )
            if images.ids[row] == "c":
                window.unreadable[row] = "made up"
                continue
            window.computed.append(place)
            window.norms[place] = row + 1 + 0.5 * np.arange(2)
            for column in range(2):
                window.descriptors[column][place] = values(images.ids[row], column)
        for group in task.groups:
            group.write_window(task.number, window, columns, SETTINGS)
        if task.number % 2:
            for group in groups:
                group.commit()
    for group in groups:
        group.finish_group()
    disk.close()


def image_set(folder: Path, letters: str) -> ImageSet:
    folder.mkdir(exist_ok=True)
    for letter in letters:
        if not (folder / f"{letter}.jpg").exists():
            (folder / f"{letter}.jpg").write_text(letter)
    return ImageSet(tuple(letters), PathList(tuple(str(folder / f"{letter}.jpg") for letter in letters)))


def finished(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def survive(
    tmp_path: Path, before: ImageSet | None, images: ImageSet, *, seed: int, lying: bool = False
) -> int:
    """Cut the power at every operation in turn; returns how many cuts left dumps that differ from undisturbed
    ones.
    """

    def prepared(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if before is not None:
            work(folder, before, Disk())
        return folder

    reference = prepared("reference")
    work(reference, images, Disk())
    expected = finished(reference)
    wrong = 0
    for dies_at in range(10_000):
        folder = prepared(f"cut{dies_at}")
        disk = ForgetfulDisk(folder, dies_at, seed * 1000 + dies_at, lying)
        try:
            work(folder, images, disk)
        except PowerLoss:
            disk.blackout()
            work(folder, images, Disk())
            wrong += finished(folder) != expected
            continue
        assert finished(folder) == expected
        return wrong
    raise AssertionError("it never ended")


def test_power_loss_at_every_operation_of_a_first_run(tmp_path):
    assert survive(tmp_path, None, image_set(tmp_path / "images", "abcdefghij"), seed=0) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_power_loss_at_every_operation_of_an_extension(tmp_path, seed):
    before = image_set(tmp_path / "images", "acdfgh")
    after = image_set(tmp_path / "images", "abcdeghij")  # f is gone, others stand between the old ones
    assert survive(tmp_path, before, after, seed=seed) == 0


@pytest.mark.parametrize("checked", [False, True])
def test_the_layer_bites(tmp_path, monkeypatch, checked):
    """With a sync that does nothing, some cut must show, were it not for the check of what is taken over."""
    if not checked:
        monkeypatch.setattr(writer, "is_whole", lambda *arguments: True)
    wrong = survive(tmp_path, None, image_set(tmp_path / "images", "abcdefghij"), seed=0, lying=True)
    assert wrong == 0 if checked else wrong > 0


def test_an_old_dump_stays_usable_until_the_new_one_stands(tmp_path):
    before, after = image_set(tmp_path / "images", "acdfgh"), image_set(tmp_path / "images", "abcdefghij")
    folder = tmp_path / "dumps"
    folder.mkdir()
    work(folder, before, Disk())
    disk = ForgetfulDisk(folder, 8, 0)
    with pytest.raises(PowerLoss):
        work(folder, after, disk)
    disk.blackout()
    assert np.array_equal(open_dump(folder / "m.1.spoc-0.npy", ids=before.ids).descriptors[1], np.zeros(5))
