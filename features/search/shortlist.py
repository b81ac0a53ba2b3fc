"""The gallery rows that may still be among the k best of each query, by bounds around their canonical scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from competition.errors import Top7Error
from features.search.similarity import best_first

_LOWEST = float(np.finfo(np.float32).min)


class _Entries(NamedTuple):
    """Rows in the running: whose they are, and between which bounds their canonical score lies."""

    owner: np.ndarray  # (p,) int64, query
    rows: np.ndarray  # (p,) int64, gallery row
    lower: np.ndarray  # (p,) float64
    upper: np.ndarray  # (p,) float64, equal to lower once rescored

    def take(self, index: np.ndarray) -> _Entries:
        return _Entries(*(part[index] for part in self))


def _joined(parts: list[_Entries]) -> _Entries:
    return _Entries(*map(np.concatenate, zip(*parts)))


class Shortlist:
    """The rows that can still be among the k best of each of Q queries, while scores stream past.

    rescore(query, rows (m,) int64) -> (m,) float64 gives the canonical scores. Blocks come in rising row
    order.
    """

    slack = 1024

    def __init__(self, count: int, k: int, rescore: Callable[[int, np.ndarray], np.ndarray]):
        self.count, self.k, self.rescore = count, k, rescore
        self.bound = 2 * k + self.slack  # entries of one query past which they are rescored
        self.floor = np.full(count, -np.inf)  # the k-th largest lower bound so far
        none = np.empty(0, dtype=np.int64)
        self.entries = _Entries(none, none, np.empty(0), np.empty(0))
        self.pruned_size = 0

    def add(self, scores: np.ndarray, start: int, error: np.ndarray) -> None:
        """Take in scores (Q, m) float32 of rows start, start + 1, …, each within error (Q,) of the canonical one.

        -inf marks a row that takes part in nothing.
        """
        best = scores.max(axis=1)
        if np.isnan(best).any() or (best == np.inf).any():
            raise Top7Error(
                f"a similarity with gallery rows {start} to {start + scores.shape[1] - 1} is not finite: "
                "the descriptors hold NaN or are not L2-normalised"
            )
        threshold = _below(self.floor - error)
        hopeful = np.flatnonzero(best >= threshold)
        if not len(hopeful):
            return
        some = scores if len(hopeful) == self.count else scores[hopeful]
        threshold, doubt, width = threshold[hopeful], 2 * error[hopeful], some.shape[1]

        def raise_threshold(queries: np.ndarray) -> None:
            """The block's own k-th score is a floor as well."""
            values = some[queries]
            values.partition(width - self.k, axis=1)
            kth = values[:, -self.k].astype(np.float64)
            threshold[queries] = np.maximum(threshold[queries], _below(kth - doubt[queries]))

        if self.k < width and len(unbounded := np.flatnonzero(self.floor[hopeful] == -np.inf)):
            raise_threshold(unbounded)
        hits = some >= threshold[:, None]
        found = np.flatnonzero(hits)  # some times as fast as looking for rows and columns
        counts = np.diff(np.searchsorted(found, width * np.arange(len(hopeful) + 1)))
        crowded = np.flatnonzero(counts > 4 * self.k + 16) if self.k < width else np.arange(0)
        if len(crowded):
            raise_threshold(crowded)
            hits[crowded] = some[crowded] >= threshold[crowded, None]
            found = np.flatnonzero(hits)
        owner, column = np.divmod(found, width)
        values = some[owner, column].astype(np.float64)
        owner = hopeful[owner]
        fresh = _Entries(owner, column + start, values - error[owner], values + error[owner])
        self.entries = _joined([self.entries, fresh])
        if len(self.entries.rows) >= 1.5 * self.pruned_size:
            self.prune()

    def prune(self) -> None:
        """Drop what can no longer be among the k best; rescore the queries that still have too many."""
        self._drop()
        crowded = np.flatnonzero(np.bincount(self.entries.owner, minlength=self.count) > self.bound)
        if len(crowded):
            busy = np.isin(self.entries.owner, crowded)
            parts = [self.entries.take(~busy)]
            for query in crowded:
                rows, scores = self._best(int(query))
                parts.append(_Entries(np.full(len(rows), query), rows, scores, scores))
            self.entries = _joined(parts)
            self._drop()
        self.pruned_size = len(self.entries.rows)

    def _drop(self) -> None:
        entries = self.entries
        entries = entries.take(np.lexsort((-entries.lower, entries.owner)))
        first = np.searchsorted(entries.owner, np.arange(self.count))
        kth = first + self.k - 1
        enough = np.bincount(entries.owner, minlength=self.count) >= self.k
        self.floor[enough] = np.maximum(self.floor[enough], entries.lower[kth[enough]])
        self.entries = entries.take(entries.upper >= self.floor[entries.owner])

    def _best(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the (at most) k best rows of one query and their canonical scores."""
        first, last = np.searchsorted(self.entries.owner, (query, query + 1))  # sorted by _drop
        rows = np.sort(self.entries.rows[first:last])
        scores = self.rescore(query, rows)
        order = best_first(scores, rows, self.k)
        return rows[order], scores[order]

    def finish(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, per query, its k best rows (fewer if there are no more) and their canonical scores, best first."""
        self._drop()
        return [self._best(query) for query in range(self.count)]


def _below(values: np.ndarray) -> np.ndarray:
    """Return float32 numbers not above the float64 values, and above -inf, which marks excluded rows."""
    rounded = np.maximum(values, _LOWEST / 2).astype(np.float32)
    return np.nextafter(rounded, np.float32(-np.inf))
