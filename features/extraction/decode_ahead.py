"""Image files read and decoded ahead of the network, in row order."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.images import ImageSet, Region
from features.decoding import Budget, decode
from features.extraction.image_files import MAX_FILE_BYTES, opened, view_hash
from features.rgb_pixels import Unreadable
from features.sizing import Sizing

READING = Budget(MAX_FILE_BYTES)  # of all files that are being decoded at one time


@dataclass
class Picture:
    """One image file: its identity, and its pixels, uint8 (H, W, 3) for each sizing, or why there are none."""

    row: int
    size_bytes: int
    mtime_ns: int
    sha256: bytes
    pixels: list[np.ndarray] | None
    reason: str | None


def read_picture(
    row: int, path: str | Path, sizings: tuple[Sizing, ...], view: int | Region | None = None
) -> Picture:
    """Read a file once: its hash and its pixels come from the same bytes. view: see `decode`."""
    picture = Picture(row, -1, -1, bytes(32), None, None)
    try:
        stream, stamp = opened(path)
        with stream, READING.room(stamp.st_size):
            data = stream.read(stamp.st_size)  # no more than that: some special files never end
            picture.size_bytes, picture.mtime_ns = stamp.st_size, stamp.st_mtime_ns
            picture.sha256 = view_hash(hashlib.sha256(data).digest(), view)
            picture.pixels = decode(data, sizings, view)
    except OSError as error:
        picture.reason = f"cannot be opened: {error.strerror}"
    except Unreadable as error:
        picture.reason = str(error)
    except MemoryError:
        picture.reason = "does not fit in memory"
    return picture


class Timed(Iterator[Picture]):
    """Pictures, with the seconds that were spent waiting for them; `fetch` draws one before it is asked for."""

    def __init__(self, pictures: Iterator[Picture]) -> None:
        self.pictures, self.waited_s = pictures, 0.0
        self.ahead: list[Picture] = []

    def fetch(self) -> None:
        """Draw a picture if there is one."""
        try:
            self.ahead.append(self._draw())
        except StopIteration:
            pass

    def _draw(self) -> Picture:
        start = time.perf_counter()
        try:
            return next(self.pictures)
        finally:
            self.waited_s += time.perf_counter() - start

    def __next__(self) -> Picture:
        return self.ahead.pop() if self.ahead else self._draw()


def read_ahead(
    images: ImageSet, rows: Iterable[int], sizings: tuple[Sizing, ...], *, workers: int, ahead: int
) -> Generator[Picture, None, None]:
    """Yield the pictures of `rows` in that order, at most `ahead` of them decoded before they are asked for."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque = deque()
        try:
            for row in rows:
                waiting.append(pool.submit(read_picture, row, images.paths[row], sizings, images.view(row)))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
