"""One window of rows at a time: images gathered into batches of one fixed shape, results back in row order.

Batches are always full: a slot without an image (unreadable, a duplicate, taken over, the end of a window) holds
a blank. Kernels round by the shape of what they are given, not by slot or neighbours, so an image has the same
bytes in a first run, in a repair and alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from competition.configuration import Parts
from features.dumps.layout import Target
from features.extraction.engine import Batch, Engine
from features.images.decode_ahead import Picture
from features.parts.projection import IMAGES_A_PASS
from features.pooling import mean_descriptors, unit_descriptors

NOT_FINITE = "the network gives values that are not finite"


@dataclass
class Window:
    """The results of `rows`.

    descriptors[t]: (m, D_t) float32; norms: (m, T) float32; pictures: {place: (size, mtime, sha256)} of the
    files read; computed: places with a descriptor; unreadable: {row: reason}; copies: {place: an earlier row
    with the same content}.
    """

    rows: range
    descriptors: list[np.ndarray]
    norms: np.ndarray
    pictures: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    computed: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)

    def identify(self, records: np.ndarray) -> None:
        """Write size, time and content hash of the files read into `records` (m,)."""
        for place, (size_bytes, mtime_ns, sha256) in self.pictures.items():
            records["size_bytes"][place], records["mtime_ns"][place] = size_bytes, mtime_ns
            records["sha256"][place] = np.frombuffer(sha256, dtype=np.uint8)


def blank_window(rows: range, widths: Sequence[int]) -> Window:
    """A window in which nothing is computed yet."""
    descriptors = [np.zeros((len(rows), width), dtype=np.float32) for width in widths]
    return Window(rows, descriptors, np.zeros((len(rows), len(widths)), dtype=np.float32))


def compute_window(
    engine: Engine,
    targets: Sequence[Target],
    widths: Sequence[int],
    rows: range,
    pictures: Iterator[Picture],
    needed: Sequence[int],
) -> Window:
    """Run the network over the next pictures of the iterator, one for each of the `needed` rows."""
    started = StartedWindow(engine, targets, widths, rows)
    started.read(pictures, needed, {})
    return started.finish()


class StartedWindow:
    """A window whose last batches may still be under way, while the images of the next one are read."""

    def __init__(self, engine: Engine, targets: Sequence[Target], widths: Sequence[int], rows: range) -> None:
        self.engine, self.targets = engine, targets
        self.window = blank_window(rows, widths)
        self.pooled = [t for t, target in enumerate(targets) if target.parts is None]
        self.projection = _Projection(engine, targets, self.window)
        self.twins: list[tuple[int, int]] = []
        self.under_way: deque[tuple[list[Picture], int, Future[Batch]]] = deque()

    def read(
        self,
        pictures: Iterator[Picture],
        needed: Sequence[int],
        known: Mapping[bytes, int],
        advance: Callable[[int], object] = lambda images: None,
    ) -> None:
        """Put everything under way. known: content hash -> a finished row with that content.

        An image of a known content, like a twin within the window, is not run again. `advance` is called for each image.
        """
        window = self.window
        first: dict[bytes, int] = {}  # content hash -> place
        groups: dict[tuple, list[Picture]] = {}
        for _ in needed:
            picture = next(pictures)
            advance(1)
            place = picture.row - window.rows.start
            window.pictures[place] = picture.size_bytes, picture.mtime_ns, picture.sha256
            if picture.sha256 in known:
                window.copies[place] = known[picture.sha256]
            elif picture.pixels is None:
                window.unreadable[picture.row] = picture.reason or "unreadable"
            elif picture.sha256 in first:
                self.twins.append((place, first[picture.sha256]))
            else:
                first[picture.sha256] = place
                shape = tuple(view.shape for view in picture.pixels)
                groups.setdefault(shape, []).append(picture)
                if (
                    len(groups[shape]) >= self.engine.settings.batch_rows
                ):  # fewer than before once memory ran out
                    self._put(groups.pop(shape))
        for waiting in groups.values():
            self._put(waiting)

    def finish(self) -> Window:
        """Wait for the last batches."""
        while self.under_way:
            self._take(*self.under_way.popleft())
        self.projection.flush()
        window = self.window
        for place, original in self.twins:
            if (reason := window.unreadable.get(window.rows.start + original)) is not None:
                window.unreadable[window.rows.start + place] = reason
                continue
            for rows in window.descriptors:
                rows[place] = rows[original]
            window.norms[place] = window.norms[original]
            window.computed.append(place)
        return window

    def _put(self, pictures: list[Picture]) -> None:
        """Compute the descriptors of pictures of one shape; waits where more than the engine takes are under way."""
        self.under_way.append(self._sent(pictures))
        most = self.engine.at_once + 1 if self.engine.settings.at_once > 1 else 0
        while len(self.under_way) > most:
            self._take(*self.under_way.popleft())

    def _sent(self, pictures: list[Picture]) -> tuple[list[Picture], int, Future[Batch]]:
        slots = _slots(self.engine, len(pictures))
        views = []
        for scaled in zip(*(picture.pixels or () for picture in pictures)):
            batch = np.zeros((slots, *scaled[0].shape), dtype=np.uint8)
            for slot, pixels in enumerate(scaled):
                batch[slot] = pixels
            views.append(batch)
        return pictures, slots, self.engine.submit(views, self.targets)

    def _take(self, pictures: list[Picture], slots: int, future: Future[Batch]) -> None:
        """Keep a batch's results; where memory ran out its halves are computed, and smaller batches from now on."""
        found = None
        try:
            found = future.result()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            self.engine.wait()  # the other batches hold memory too
            if not out_of_memory(error) or not self.engine.halve_batch(slots):
                raise
        if found is not None:
            self._keep(pictures, found)
            return
        del future  # with the error goes what its frames still hold
        half = (len(pictures) + 1) // 2
        for part in filter(None, (pictures[:half], pictures[half:])):
            self._take(*self._sent(part))

    def _keep(self, pictures: list[Picture], found: Batch) -> None:
        for slot, picture in enumerate(pictures):
            place = picture.row - self.window.rows.start
            if not found.finite[slot]:
                self.window.unreadable[picture.row] = NOT_FINITE
                continue
            for t, rows in zip(self.pooled, found.rows):
                self.window.descriptors[t][place] = rows[slot]
            self.window.norms[place, self.pooled] = found.norms[slot]
            self.window.computed.append(place)
            self.projection.add(
                place, [{parts: psi[slot] for parts, psi in view.items()} for view in found.psi]
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or numpy says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))


class _Projection:
    """Part sums are gathered and projected many at once: a projection reads the whole training sample each time."""

    def __init__(self, engine: Engine, targets: Sequence[Target], window: Window) -> None:
        self.engine, self.window = engine, window
        self.columns = [
            (t, target.parts, target.count)
            for t, target in enumerate(targets)
            if target.parts is not None and target.count is not None
        ]
        self.places: list[int] = []
        self.views: list[list[dict[Parts, Tensor]]] = []

    def add(self, place: int, views: list[dict[Parts, Tensor]]) -> None:
        """views: for each view, psi (N, C) of one image by parts table."""
        if not self.columns:
            return
        self.places.append(place)
        self.views.append(views)
        if len(self.places) == IMAGES_A_PASS:
            self.flush()

    def flush(self) -> None:
        """Project what has been gathered and put it into the window."""
        if not self.places:
            return
        rows, norms = [], []
        for view in range(len(self.views[0])):
            projected = {
                parts: self.engine.part_models[parts].project_psi(
                    torch.stack([views[view][parts] for views in self.views])
                )
                for parts in self.views[0][view]
            }
            found = [unit_descriptors(projected[parts][count]) for _, parts, count in self.columns]
            rows.append([unit.cpu().numpy() for unit, _ in found])
            norms.append(torch.stack([lengths for _, lengths in found], 1).cpu().numpy())
        means, lengths = mean_descriptors(rows, norms)
        for column, (t, _, _) in enumerate(self.columns):
            self.window.descriptors[t][self.places] = means[column]
            self.window.norms[self.places, t] = lengths[:, column]
        self.places, self.views = [], []


def _slots(engine: Engine, pictures: int) -> int:
    """The rows of a batch: always all of them on a CPU.

    On a GPU, where shapes differ from image to image and half precision rounds anyway, the next power of two, at least 2.
    """
    most = engine.settings.batch_rows
    if engine.backbone.resize == "keep" and engine.device.type != "cpu":
        return max(pictures, min(most, max(2, 1 << (pictures - 1).bit_length())))
    return max(pictures, most)
