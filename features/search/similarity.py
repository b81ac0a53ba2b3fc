"""The canonical score that decides every ranking, and fast float32 similarities with a proven bound on their error.

Three ways of computing one inner product (a fused float32 product, a batched one, a single row) give three
different last bits, and exact ties then break in three ways. So one kernel decides: float64, one row at a
time, summed by `numpy.add.reduce` along a contiguous last axis, whose order of additions depends on the
dimension alone. Fast products only preselect, within `margin`.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from competition.errors import Top7Error

BLOCK_ROWS = 4096
_PRODUCT_BYTES = 16 << 20  # float64 products held at once by the kernel
_PAIR_BYTES = 1 << 20  # and for pairs of rows, which are read one by one: they stay in the processor's cache
UNIT_NORM = 1.001  # bounds the norm of a unit vector that was rounded to float16
_F32, _F64 = 2.0**-24, 2.0**-53  # unit roundoffs
_TINY = 2.0**-125  # what one product may lose to underflow, flushing to zero included


def component_similarity(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the canonical inner products of one query with some rows.

    query (D,) and rows (m, D), float16, float32 or float64 -> (m,) float64. Entries are promoted to float64
    first, which makes products of float32 (and float16) entries exact. The bits of each value depend on its
    two vectors only: not on m, on the other rows, on memory layout or on threads.
    """
    query = np.asarray(query, dtype=np.float64)
    count, dimension = rows.shape
    if query.shape != (dimension,):
        raise ValueError(f"query of shape {query.shape} against rows of {dimension} dimensions")
    similarities = np.empty(count)
    step = max(1, _PRODUCT_BYTES // (8 * max(1, dimension)))
    for start in range(0, count, step):
        part = rows[start : start + step]
        products = np.empty(part.shape)  # always C-contiguous: the additions' order rests on it
        np.multiply(part, query, out=products, dtype=np.float64)
        np.add.reduce(products, axis=-1, out=similarities[start : start + step])
    return similarities


def fuse(
    similarities: Sequence[np.ndarray] | np.ndarray, weights: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return sum_l w_l s_l in float64, in the order given, leaving out components whose weight is 0.

    similarities: L arrays of one shape, float64; weights (L,). A skipped component is not even read.
    """
    total = np.zeros(np.shape(similarities[0]))
    for similarity, weight in zip(similarities, weights, strict=True):
        if weight != 0:
            total += np.float64(weight) * np.asarray(similarity, dtype=np.float64)
    return total


def fused_score(
    query: Sequence[np.ndarray], rows: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the canonical score (m,) float64 of one query, L vectors (D_l,), with rows, L arrays (m, D_l)."""
    total = np.zeros(len(rows[0]))
    for q, r, weight in zip(query, rows, weights, strict=True):
        if weight != 0:
            total += np.float64(weight) * component_similarity(q, r)
    return total


def pair_scores(
    gallery: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Return the canonical scores (p,) float64 of rows left (p,) with rows right (p,) of one gallery."""
    result = np.zeros(len(left))
    step = max(1, _PAIR_BYTES // (8 * max(1, *(part.shape[1] for part in gallery))))
    for start in range(0, len(left), step):
        a, b = left[start : start + step], right[start : start + step]
        for part, weight in zip(gallery, weights, strict=True):
            if weight != 0:
                products = part[a].astype(np.float64, order="C")
                products *= part[b]
                result[start : start + len(a)] += np.float64(weight) * np.add.reduce(products, axis=-1)
    return result


def best_first(scores: np.ndarray, rows: np.ndarray, k: int | None = None) -> np.ndarray:
    """Return the positions (at most k) that sort by falling score, equal scores by rising row."""
    return np.lexsort((rows, -scores))[:k]


def margin(dimension: int, norms: float | np.ndarray = UNIT_NORM**2, extra: int = 0) -> float | np.ndarray:
    """Return a bound on |x·y as a float32 product gives it - the canonical x·y|.

    dimension: length D of the vectors; norms: an upper bound on ‖x‖·‖y‖ (default: both L2-normalised, then
    stored in float32 or float16); extra: further float32 roundings on the way of a term. The bound is gamma_n
    = n u / (1 - n u) with u = 2^-24 times the norms (Higham, Accuracy and Stability, 3.1), n = D + 4 + extra,
    true for any order of additions, any blocking and fused multiply-adds; the 4 cover rounding float64 input
    to float32; the canonical sum's own gamma in float64 and underflow are added.
    """
    count = dimension + 4 + extra
    gamma = count * _F32 / (1 - count * _F32) + count * _F64 / (1 - count * _F64)
    return gamma * 1.0001 * norms + dimension * _TINY * (1 + norms)


def float32_rows(rows: np.ndarray, buffer: np.ndarray | None = None) -> np.ndarray:
    """Return rows (m, D) as a C-contiguous float32 array: themselves if they are one, else a copy (into `buffer`)."""
    if rows.dtype == np.float32 and rows.flags.c_contiguous:
        return np.asarray(rows)
    out = np.empty(rows.shape, np.float32) if buffer is None else buffer[: len(rows)]
    if rows.dtype == np.float16 and rows.flags.c_contiguous and rows.size >= 1 << 16:
        import torch  # converts half precision ten times as fast as numpy, to the same (exact) values

        with warnings.catch_warnings():  # torch warns of read-only memory, which is only read here
            warnings.simplefilter("ignore", UserWarning)
            torch.from_numpy(out).copy_(torch.from_numpy(np.asarray(rows)))
    else:
        np.copyto(out, rows, casting="same_kind")
    return out


def forget(rows: np.ndarray) -> None:
    """Let the system take back the pages of these rows, if they are a read-only memmap's.

    Resident memory stays flat. The file and the values are untouched; pages come back from the page cache when read
    again.
    """
    mapped = getattr(rows, "_mmap", None)
    if mapped is None or not rows.size or rows.flags.writeable:  # a copy-on-write map would lose its changes
        return
    base = np.frombuffer(mapped, np.uint8).ctypes.data
    low, high = np.lib.array_utils.byte_bounds(rows)
    first = (low - base) // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, high - base - first)


def check_components(queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray]) -> None:
    """Raise Top7Error unless both hold the same components: 2-D floats, equal dimensions, equal counts of rows."""
    if len(queries) != len(gallery) or not len(queries):
        raise Top7Error(
            f"{len(queries)} components of queries against {len(gallery)} of the gallery: "
            "give both, at least one, in the same order"
        )
    for number, (q, g) in enumerate(zip(queries, gallery)):
        if q.ndim != 2 or g.ndim != 2 or q.shape[1] != g.shape[1]:
            raise Top7Error(
                f"component {number}: queries of shape {q.shape} do not fit a gallery of shape {g.shape}; "
                "expected (queries, D) and (images, D), one recipe for both"
            )
        if len(q) != len(queries[0]) or len(g) != len(gallery[0]):
            raise Top7Error(
                f"component {number}: {len(q)} queries and {len(g)} gallery rows, component 0 has "
                f"{len(queries[0])} and {len(gallery[0])}: they are not of the same images"
            )
        for array in (q, g):
            if array.dtype.kind != "f":
                raise Top7Error(f"component {number}: descriptors of type {array.dtype}, expected floats")


def similarity_blocks(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    block_rows: int = BLOCK_ROWS,
    rows: range | None = None,
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield (first gallery row, L arrays (Q, m) float32) over the gallery, one matrix product a component.

    queries: L arrays (Q, D_l); gallery: L arrays or memmaps (n, D_l), any float type, read a block at a time; rows:
    of the gallery, None for all. Each value lies within `margin(D_l, ‖q‖·‖x‖)` of the canonical one. The arrays are
    overwritten by the next step.
    """
    check_components(queries, gallery)
    left = [float32_rows(np.asarray(q)) for q in queries]
    rows = range(len(gallery[0])) if rows is None else rows
    size = min(block_rows, len(rows))
    outputs = [np.empty((len(left[0]), size), np.float32) for _ in gallery]
    buffers = [None if g.dtype == np.float32 else np.empty((size, g.shape[1]), np.float32) for g in gallery]
    for start in range(rows.start, rows.stop, max(1, size)):
        stop = min(start + size, rows.stop)
        result = []
        for q, g, buffer, out in zip(left, gallery, buffers, outputs):
            if stop - start < size:  # the last block: keep the product's output contiguous
                out = np.empty((len(q), stop - start), np.float32)
            block = g[start:stop]
            np.matmul(q, float32_rows(block, buffer).T, out=out)
            forget(block)
            result.append(out)
        yield start, result
