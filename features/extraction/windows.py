"""One window of rows at a time: images gathered into batches of one fixed shape, results back in row order.

Batches are always full: a slot without an image (unreadable, a duplicate, the end of a window) holds a blank.
An image's descriptor then depends neither on its neighbours nor on what became of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from competition.configuration import Parts
from features.extraction.engine import Engine, averaged, unit_rows
from features.extraction.reading import Picture
from features.extraction.targets import Target

NOT_FINITE = "the network gives values that are not finite"


@dataclass
class Window:
    """The results of `rows`: rows[t] (m, D_t) float32, norms (m, T), identity of the files, unreadable
    reasons.
    """

    rows: range
    descriptors: list[np.ndarray]
    norms: np.ndarray
    pictures: list[tuple[int, int, bytes]] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)


def compute_window(
    engine: Engine,
    targets: Sequence[Target],
    widths: Sequence[int],
    rows: range,
    pictures: Iterator[Picture],
    advance: Callable[[int], object] = lambda images: None,
) -> Window:
    """Run the network over the next len(rows) pictures of the iterator; `advance` hears of each one's end."""
    window = Window(
        rows,
        [np.zeros((len(rows), width), dtype=np.float32) for width in widths],
        np.zeros((len(rows), len(targets)), dtype=np.float32),
    )
    projection = Projection(engine, targets, window)
    groups: dict[tuple, list[Picture]] = {}
    for _ in rows:
        picture = next(pictures)
        advance(1)
        window.pictures.append((picture.size_bytes, picture.mtime_ns, picture.sha256))
        if picture.pixels is None:
            window.unreadable[picture.row] = picture.reason or "unreadable"
            continue
        shape = tuple(view.shape for view in picture.pixels)
        groups.setdefault(shape, []).append(picture)
        if len(groups[shape]) == engine.settings.batch_rows:
            _run(engine, targets, window, groups.pop(shape), projection)
    for waiting in groups.values():
        _run(engine, targets, window, waiting, projection)
    projection.flush()
    return window


def _run(
    engine: Engine, targets: Sequence[Target], window: Window, pictures: list[Picture], projection: Projection
) -> None:
    views = []
    for view in range(len(pictures[0].pixels)):
        batch = np.zeros((_slots(engine, len(pictures)), *pictures[0].pixels[view].shape), dtype=np.uint8)
        for slot, picture in enumerate(pictures):
            batch[slot] = picture.pixels[view]
        views.append(batch)
    found = engine.describe(views, targets)
    pooled = [t for t, target in enumerate(targets) if target.parts is None]
    for slot, picture in enumerate(pictures):
        place = picture.row - window.rows.start
        if not found.finite[slot]:
            window.unreadable[picture.row] = NOT_FINITE
            continue
        for t, rows in zip(pooled, found.rows):
            window.descriptors[t][place] = rows[slot]
        window.norms[place, pooled] = found.norms[slot]
        projection.add(place, [{parts: psi[slot] for parts, psi in view.items()} for view in found.psi])


class Projection:
    """Gathers part sums, since a projection reads the whole training sample for each call, and projects many
    at once.
    """

    def __init__(self, engine: Engine, targets: Sequence[Target], window: Window) -> None:
        self.engine, self.window = engine, window
        self.columns = [
            (t, target.parts, target.count) for t, target in enumerate(targets) if target.parts is not None
        ]
        self.most = min((engine.part_models[parts].images_a_call for _, parts, _ in self.columns), default=0)
        self.places: list[int] = []
        self.views: list[list[dict[Parts, Tensor]]] = []

    def add(self, place: int, views: list[dict[Parts, Tensor]]) -> None:
        """views: for each view, psi (N, C) of one image by parts table."""
        if not self.columns:
            return
        self.places.append(place)
        self.views.append(views)
        if len(self.places) == self.most:
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
            found = [unit_rows(projected[parts][count]) for _, parts, count in self.columns]
            rows.append([unit.cpu().numpy() for unit, _ in found])
            norms.append(torch.stack([lengths for _, lengths in found], 1).cpu().numpy())
        means, lengths = averaged(rows, norms)
        for column, (t, _, _) in enumerate(self.columns):
            self.window.descriptors[t][self.places] = means[column]
            self.window.norms[self.places, t] = lengths[:, column]
        self.places, self.views = [], []


def _slots(engine: Engine, pictures: int) -> int:
    """Always the full batch; where shapes differ from image to image, the next power of two, at least 2."""
    if engine.backbone.resize != "keep":
        return engine.settings.batch_rows
    return min(engine.settings.batch_rows, max(2, 1 << (pictures - 1).bit_length()))
