"""Rows that are computed from other rows when they are read, so that no gallery is ever held twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from features.search.similarity import forget


class Rows:
    """A matrix (n, D) that is read like an array, by slice or by row numbers, which is all that a search asks of one."""

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


class RowView(Rows):
    """A (n, dimension) matrix, float64 unless said, whose rows are `function` of the same rows of its sources.

    sources: arrays or memmaps of n rows each; function(blocks: list of their slices) -> (m, dimension)
    of `dtype`, which has to treat every row alone, so that its bits do not depend on the block.
    """

    def __init__(
        self,
        sources: Sequence[np.ndarray],
        function: Callable[[list[np.ndarray]], np.ndarray],
        dimension: int,
        dtype: type = np.float64,
    ):
        self.sources, self.function, self.dtype = list(sources), function, np.dtype(dtype)
        self.shape = (len(self.sources[0]), dimension)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        blocks = [source[index] for source in self.sources]
        rows = self.function(blocks)
        for block in blocks:
            forget(block)
        return rows


def float64_rows(rows: np.ndarray) -> np.ndarray:
    """Return a new C-contiguous float64 copy of rows (m, D). Sums along its last axis then depend on the row alone."""
    return np.array(rows, dtype=np.float64, order="C")


def row_norms(rows: np.ndarray) -> np.ndarray:
    """Return the Euclidean norms (m,) float64 of rows (m, D), each from its own row's additions alone."""
    rows = float64_rows(rows)
    return np.sqrt(np.add.reduce(np.square(rows, out=rows), axis=-1))


def normalised(rows: np.ndarray) -> np.ndarray:
    """Return rows (m, D) divided by their norms, float64; zero rows stay zero."""
    norms = row_norms(rows)
    return float64_rows(rows) / np.where(norms > 0, norms, 1.0)[:, None]


def concatenated(components: Sequence[np.ndarray], weights: np.ndarray) -> Any:
    """Return [√w_1 f_1, …, √w_L f_L] (n, ΣD_l) float64; its inner product is the fused cosine. Weights >= 0."""
    roots = np.sqrt(np.asarray(weights, dtype=np.float64))

    def joined(blocks: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([root * float64_rows(block) for root, block in zip(roots, blocks)], axis=1)

    return RowView(components, joined, sum(component.shape[1] for component in components))


class RowStack(Rows):
    """The rows of several matrices (n_i, D) one below the other."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = list(parts)
        self.starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        self.shape = (int(self.starts[-1]), parts[0].shape[1])
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        for part, start, stop in zip(self.parts, self.starts[:-1], self.starts[1:]):
            mine = (rows >= start) & (rows < stop)
            if mine.any():
                result[mine] = part[rows[mine] - start]
        return result
