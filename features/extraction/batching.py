"""One window of rows at a time: images gathered into batches of one fixed shape, results back in row order.

Batches are always full: a slot without an image (unreadable, a duplicate, taken over, the end of a window) holds
a blank. Kernels round by the shape of what they are given, not by slot or neighbours, so an image has the same
bytes in a first run, in a repair and alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field

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

    settings: those it was computed with; descriptors: {target's number: (m, D) float32}, norms: {target's number: (m,)
    float32}, zero where nothing is computed; pictures: {place: (size, mtime, sha256)} of the files read; computed: places
    with a descriptor; unreadable: {row: reason}; copies: {place: a row before it with the same content}; waited_s: how
    long of taken_s the network had no images.
    """

    rows: range
    settings: dict
    descriptors: dict[int, np.ndarray] = field(default_factory=dict)
    norms: dict[int, np.ndarray] = field(default_factory=dict)
    pictures: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    computed: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    waited_s: float = 0.0
    taken_s: float = 0.0

    def put(self, t: int, places: Sequence[int], descriptors: np.ndarray, norms: np.ndarray) -> None:
        """Keep the descriptors (k, D) of target number `t`, and their norms (k,), at k places."""
        if t not in self.descriptors:
            self.descriptors[t] = np.zeros((len(self.rows), descriptors.shape[1]), dtype=np.float32)
            self.norms[t] = np.zeros(len(self.rows), dtype=np.float32)
        self.descriptors[t][places], self.norms[t][places] = descriptors, norms


def compute_window(
    engine: Engine, targets: Sequence[Target], rows: range, pictures: Iterator[Picture], needed: Sequence[int]
) -> Window:
    """Run the network over the next pictures of the iterator, one for each of the `needed` rows."""
    started = StartedWindow(engine, targets, rows)
    started.read(pictures, needed, {})
    return started.finish()


class StartedWindow:
    """A window whose last batches may still be under way, while the images of the next one are read."""

    def __init__(self, engine: Engine, targets: Sequence[Target], rows: range) -> None:
        self.engine, self.targets, self.window = engine, targets, Window(rows, {})
        self.pooled = [t for t, target in enumerate(targets) if target.parts is None]
        self.columns = [
            (t, target.parts, target.count)
            for t, target in enumerate(targets)
            if target.parts is not None and target.count is not None
        ]
        self.gathered: list[tuple[int, list[dict[Parts, Tensor]]]] = []  # place; psi (N, C) of its views
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
        window, began = self.window, time.perf_counter()
        first: dict[bytes, int] = {}  # content hash -> row
        groups: dict[tuple, list[Picture]] = {}
        for _ in needed:
            asked = time.perf_counter()
            picture = next(pictures)
            window.waited_s += time.perf_counter() - asked
            advance(1)
            place = picture.row - window.rows.start
            window.pictures[place] = picture.size_bytes, picture.mtime_ns, picture.sha256
            if (original := known.get(picture.sha256, first.get(picture.sha256))) is not None:
                window.copies[place] = original
            elif picture.pixels is None:
                window.unreadable[picture.row] = picture.reason or "unreadable"
            else:
                first[picture.sha256] = picture.row
                shape = tuple(view.shape for view in picture.pixels)
                groups.setdefault(shape, []).append(picture)
                # fewer than before once memory ran out
                if len(groups[shape]) >= self.engine.settings.batch_rows:
                    self._put(groups.pop(shape))
        for waiting in groups.values():
            self._put(waiting)
        window.taken_s = time.perf_counter() - began

    def finish(self) -> Window:
        """Wait for the last batches."""
        began = time.perf_counter()
        while self.under_way:
            self._take(*self.under_way.popleft())
        self._project()
        self.window.settings = asdict(self.engine.settings)
        self.window.taken_s += time.perf_counter() - began
        return self.window

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
        try:
            found = future.result()
        except (MemoryError, RuntimeError) as error:
            self.engine.wait()  # the other batches hold memory too
            if not out_of_memory(error) or not self.engine.halve_batch(slots):
                raise
        else:
            self._keep(pictures, found)
            return
        del future  # with the error goes what its frames still hold
        half = (len(pictures) + 1) // 2
        for part in filter(None, (pictures[:half], pictures[half:])):
            self._take(*self._sent(part))

    def _keep(self, pictures: list[Picture], found: Batch) -> None:
        finite = found.finite[: len(pictures)]
        self.window.unreadable |= {pictures[slot].row: NOT_FINITE for slot in np.flatnonzero(~finite)}
        slots = np.flatnonzero(finite).tolist()
        places = [pictures[slot].row - self.window.rows.start for slot in slots]
        self.window.computed += places
        for t, rows, norms in zip(self.pooled, found.rows, found.norms.T):
            self.window.put(t, places, rows[slots], norms[slots])
        for slot, place in zip(slots, places) if self.columns else ():
            views = [{parts: psi[slot] for parts, psi in view.items()} for view in found.psi]
            self.gathered.append((place, views))
            if len(self.gathered) == IMAGES_A_PASS:
                self._project()

    def _project(self) -> None:
        """Project the part sums gathered, many at once: a projection reads the whole training sample each time."""
        if not self.gathered:
            return
        places, rows, norms = [place for place, _ in self.gathered], [], []
        for view in zip(*(views for _, views in self.gathered)):
            projected = {
                parts: self.engine.part_models[parts].project_psi(torch.stack([psi[parts] for psi in view]))
                for parts in view[0]
            }
            found = [unit_descriptors(projected[parts][count]) for _, parts, count in self.columns]
            rows.append([unit.cpu().numpy() for unit, _ in found])
            norms.append(torch.stack([lengths for _, lengths in found], 1).cpu().numpy())
        means, lengths = mean_descriptors(rows, norms)
        for column, (t, _, _) in enumerate(self.columns):
            self.window.put(t, places, means[column], lengths[:, column])
        self.gathered = []


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or numpy says that memory ran out."""
    says = any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))
    return says or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _slots(engine: Engine, pictures: int) -> int:
    """The rows of a batch: always all of them on a CPU.

    On a GPU, where shapes differ from image to image and half precision rounds anyway, the next power of two, at least 2.
    """
    most = engine.settings.batch_rows
    if engine.backbone.resize == "keep" and engine.device.type != "cpu":
        return max(pictures, min(most, max(2, 1 << (pictures - 1).bit_length())))
    return max(pictures, most)
