"""The neighbour graph of a large gallery by half of its products: one score serves both of its rows.

A window of rows is multiplied with all rows that no earlier window of this run was multiplied with. What later windows
learn from it stays in memory, some 8 (4 k + 64) bytes a row; a run that starts in the middle computes again what it
lacks. Products are rounded ones (features/search/factors.py); every pair that their bounds leave is scored canonically.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from features.search.contenders import Contenders, best
from features.search.factors import TILE_ROWS, Factors
from features.search.similarity import forget, pair_scores
from features.search.threads import Spread

SAMPLED_ROWS = 4096  # every row's k-th best of these is its first threshold
STRIP_ROWS = 16  # whose scores with one row are looked at together
STRIPS = 1 << 16  # with something in them, handled at once
BEST_ROWS = 512  # scored canonically by one thread at once
SHORT = 1e-15  # no longer than that are rows of zeros


class SymmetricGraph:
    """The windows of a neighbour graph with k neighbours, asked for in rising order.

    factors: the gallery; windows: row ranges that make it up; spread: a map, such as `threads` gives.
    """

    def __init__(self, factors: Factors, k: int, windows: Sequence[range], spread: Spread = map):
        self.factors, self.k, self.spread = factors, k, spread
        self.windows = {window.start: window for window in windows}
        self.covered: set[int] = set()  # first rows of windows whose products with all others were made
        self.excluded = excluded = factors.excluded
        self.scores = partial(pair_scores, factors.components, factors.weights)
        tiles = [tile for window in windows for tile in tiles_of(window)]
        measures = np.concatenate(list(spread(lambda tile: factors.measures(tile.start, tile.stop), tiles)))
        self.errors = factors.errors(measures)
        self.empty = ~excluded & self._empty(measures[:, 0])
        self.thresholds = np.where(excluded | self.empty, np.float32(np.inf), np.float32(-np.inf))
        self._sample(tiles)
        self.later = {window.start: self._contenders(window) for window in windows}

    def _empty(self, lengths: np.ndarray) -> np.ndarray:
        """Return which rows are zero in every component, (n,) bool: they score 0 with all."""
        if not self.factors.weights.any():
            return np.ones(len(lengths), bool)
        found = np.zeros(len(lengths), bool)
        for row in np.flatnonzero(lengths < SHORT):
            found[row] = not any(np.any(part[row : row + 1]) for part in self.factors.components)
        return found

    def _sample(self, tiles: Sequence[range]) -> None:
        """Set first thresholds from a seeded sample of the gallery."""
        allowed = np.flatnonzero(~self.excluded)
        size = min(len(allowed), max(SAMPLED_ROWS, 4 * self.k))
        if size <= self.k:
            return
        sample = np.sort(np.random.default_rng(0).choice(allowed, size, replace=False))
        right = self.factors.right(self.factors.read(sample))

        def look(tile: range) -> None:
            left = self.factors.left(self.factors.read(slice(tile.start, tile.stop)))
            keys = self.factors.keys(left, right)
            place = size - self.k - 1  # the row itself may be among those above
            keys.partition(place, axis=1)
            errors, thresholds = (part[tile.start : tile.stop] for part in (self.errors, self.thresholds))
            floors = self.factors.floors(self.factors.values(keys[:, place]), errors)
            np.copyto(thresholds, self.factors.thresholds(floors, errors), where=thresholds < np.inf)

        list(self.spread(look, tiles))

    def _contenders(self, window: range) -> Contenders:
        own = slice(window.start, window.stop)
        known = self.thresholds[own], self.errors[own]
        return Contenders(window.start, self.k, *known, self.factors, self.scores)

    def window(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the graph's rows (m, k) int32 and scores (m, k) float64 of the window of rows start to stop."""
        left = [Left(self.factors, tile, self.thresholds) for tile in tiles_of(self.windows[start])]
        right = [
            (tile, window.start)
            for window in self.windows.values()
            if window.start not in self.covered
            for tile in tiles_of(window)
        ]
        list(self.spread(lambda one: self._multiply(left, start, *one), right))
        self.covered.add(start)
        for part in self.factors.components:
            forget(part)
        own, others = self.later.pop(start).left()
        rows_of = range(stop - start)
        parts = [rows_of[first : first + BEST_ROWS] for first in range(0, len(rows_of), BEST_ROWS)]

        def rank(part: range) -> tuple[np.ndarray, np.ndarray]:
            pairs = slice(*np.searchsorted(own, (part.start, part.stop)))
            scores = self.scores(start + own[pairs], others[pairs])
            return best(own[pairs] - part.start, others[pairs], scores, len(part), self.k)

        rows, scores = (np.concatenate(found) for found in zip(*self.spread(rank, parts)))
        allowed = np.flatnonzero(~self.excluded)[: self.k + 1]
        for row in np.flatnonzero(self.empty[start:stop]):
            first = allowed[allowed != start + row][: self.k]
            rows[row, : len(first)], scores[row, : len(first)] = first, 0.0
        return rows, scores

    def _multiply(self, lefts: Sequence[Left], start: int, tile: range, window: int) -> None:
        """Let the window at `start` and, if it comes later, the window of a tile learn from their products."""
        factors = self.factors
        rows = factors.right(factors.read(slice(tile.start, tile.stop)))
        for left in lefts:
            if window == start and left.first > tile.start:
                continue  # the same pairs as with the tiles exchanged
            both = tile.start > left.first
            strips = factors.keys(left.rows, rows).reshape(-1, STRIP_ROWS, len(tile))
            least = np.where(left.real, self.thresholds[left.rows_of], np.float32(np.inf))
            keys = factors.threshold_keys(least).reshape(-1, STRIP_ROWS).min(axis=1)[:, None]
            theirs = self.thresholds[tile.start : tile.stop].copy()
            if both:
                keys = np.minimum(keys, factors.threshold_keys(theirs))
            found = np.flatnonzero(strips.max(axis=1) >= keys)
            for first in range(0, len(found), STRIPS):
                strip, column = np.divmod(found[first : first + STRIPS], len(tile))
                values = factors.values(strips[strip, :, column])
                hit, lane = np.nonzero(values >= least.reshape(-1, STRIP_ROWS)[strip])
                own, other = left.rows_of[strip[hit] * STRIP_ROWS + lane], tile.start + column[hit]
                self._add(start, own, other, values[hit, lane])
                if both:
                    hit, lane = np.nonzero(values >= theirs[column, None])
                    place = strip[hit] * STRIP_ROWS + lane
                    real = left.real[place]
                    other = left.rows_of[place]
                    self._add(window, (tile.start + column[hit])[real], other[real], values[hit, lane][real])

    def _add(self, window: int, own: np.ndarray, others: np.ndarray, values: np.ndarray) -> None:
        matter = np.flatnonzero((own != others) & ~self.excluded[others])
        self.later[window].add(own[matter] - window, others[matter], values[matter])


class Left:
    """One tile of a window as the left side of products, by rising threshold, so that a strip's thresholds are alike.

    rows_of (m,): gallery rows, the last one again until STRIP_ROWS divides m; real (m,) bool: not such a copy; first:
    the tile's first row.
    """

    def __init__(self, factors: Factors, tile: range, thresholds: np.ndarray):
        order = np.argsort(thresholds[tile.start : tile.stop], kind="stable")
        self.real = np.arange(len(order) + -len(order) % STRIP_ROWS) < len(order)
        order = np.pad(order, (0, -len(order) % STRIP_ROWS), mode="edge")
        self.first, self.rows_of = tile.start, tile.start + order
        self.rows = factors.left(factors.read(slice(tile.start, tile.stop))[order])


def tiles_of(window: range) -> list[range]:
    """Return a window in pieces of at most TILE_ROWS."""
    return [window[first : first + TILE_ROWS] for first in range(0, len(window), TILE_ROWS)]
