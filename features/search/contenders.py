"""The gallery rows that may still be among the k nearest of each row of a window, while approximate scores come in.

Scores come in any order. Of each row of the window, the k-th largest lower bound seen so far is its floor; a threshold
below it says which further scores can matter. Where more stay than there is room for, the canonical scores decide.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np

from features.search.factors import Factors

Pairs = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (p,), rows (p,) -> canonical scores (p,)


def room(k: int) -> int:
    """Return for how many contenders each row has room."""
    return 4 * k + 64


class Contenders:
    """Those of the gallery's rows `start` to `start + len(thresholds)`.

    thresholds (m,) float32: raised in place; errors (m,) float64 and factors: how far scores may lie from the canonical
    ones; scores: these, of pairs of gallery rows.
    """

    def __init__(
        self, start: int, k: int, thresholds: np.ndarray, errors: np.ndarray, factors: Factors, scores: Pairs
    ) -> None:
        self.start, self.k, self.thresholds = start, k, thresholds
        self.errors, self.factors, self.scores = errors, factors, scores
        self.others = np.empty((len(thresholds), room(k)), np.int32)
        self.values = np.empty((len(thresholds), room(k)), np.float32)
        self.count = np.zeros(len(thresholds), np.int64)
        self.due = np.full(
            len(thresholds), 2 * k + 16
        )  # contenders with which the threshold is looked at again
        self.lock = Lock()

    def add(self, own: np.ndarray, others: np.ndarray, values: np.ndarray) -> None:
        """Take in approximate scores (p,) float32 of pairs of rows; no pair comes twice.

        They are of rows `own` (p,) of the window, counted from its first, with gallery rows `others` (p,).
        """
        order = np.argsort(own, kind="stable")
        own, others, values = own[order], others[order], values[order]
        with self.lock:
            while True:
                matter = np.flatnonzero(values >= self.thresholds[own])
                own, others, values = own[matter], others[matter], values[matter]
                if not len(own):
                    return
                place = self.count[own] + np.arange(len(own)) - np.searchsorted(own, own)
                fits = place < self.others.shape[1]
                self.others[own[fits], place[fits]] = others[fits]
                self.values[own[fits], place[fits]] = values[fits]
                self.count += np.bincount(own[fits], minlength=len(self.count))
                self._tighten(np.flatnonzero(self.count >= self.due))
                own, others, values = own[~fits], others[~fits], values[~fits]

    def _tighten(self, rows: np.ndarray) -> None:
        """Raise the thresholds of some rows of the window, of more than k contenders each, and drop what is below them."""
        if not len(rows):
            return
        size = self.others.shape[1]
        values = self.values[rows]
        values[np.arange(size) >= self.count[rows, None]] = -np.inf
        kth = np.partition(values, size - self.k, axis=1)[:, size - self.k]
        self._raise(rows, self.factors.floors(kth, self.errors[rows]))
        keep = values >= self.thresholds[rows, None]
        self.count[rows] = keep.sum(axis=1)
        order = np.argsort(~keep, axis=1, kind="stable")
        self.others[rows] = np.take_along_axis(self.others[rows], order, axis=1)
        self.values[rows] = np.take_along_axis(values, order, axis=1)
        for row in rows[self.count[rows] > size - self.k // 2 - 16]:
            self._rescore(row)
        self.due[rows] = self.count[rows] + self.k // 2 + 16  # at most `size`

    def _rescore(self, row: int) -> None:
        """Keep the k best contenders of one row by their canonical scores."""
        others = self.others[row, : self.count[row]]
        scores = self.scores(np.full(len(others), self.start + row), others)
        order = np.lexsort((others, -scores))[: self.k]
        self._raise(np.array([row]), scores[order[-1:]])
        self.others[row, : self.k], self.values[row, : self.k] = others[order], self.values[row, order]
        self.count[row] = self.k

    def _raise(self, rows: np.ndarray, floors: np.ndarray) -> None:
        found = self.factors.thresholds(floors, self.errors[rows])
        self.thresholds[rows] = np.maximum(self.thresholds[rows], found)

    def left(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the contenders that remain: rows of the window (p,), rising, and gallery rows (p,)."""
        rows = np.flatnonzero(self.count > self.k)
        self._tighten(rows)
        own, place = np.nonzero(np.arange(self.others.shape[1]) < self.count[:, None])
        return own, self.others[own, place].astype(np.int64)


def best(
    own: np.ndarray, others: np.ndarray, scores: np.ndarray, count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return of pairs (p,) the k best of each of `count` rows: (count, k) int32 and float64.

    Ties to the lower row, -1 and -inf last.
    """
    order = np.lexsort((others, -scores, own))
    own, others, scores = own[order], others[order], scores[order]
    place = np.arange(len(own)) - np.searchsorted(own, own)
    own, others, scores, place = (part[place < k] for part in (own, others, scores, place))
    rows, values = np.full((count, k), -1, np.int32), np.full((count, k), -np.inf)
    rows[own, place], values[own, place] = others, scores
    return rows, values
