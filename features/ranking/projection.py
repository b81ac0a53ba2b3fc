"""Whitening and z-normalisation of descriptors of a few thousand dimensions: learnt from rows, applied to
rows.

What is learnt is a mean (D,) and a matrix (D, M) (or a scale (D,)); `features/whitening.py` has the dual form
that part detectors need. Statistics are summed over blocks of a fixed size, so they do not depend on how rows
are read; projections are taken in float64 and rounded to float32, in blocks of a fixed shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from competition.errors import ConfigurationError, Top7Error
from features.ranking.views import RowView, float64_rows, normalised
from features.whitening import inverse_root

STATISTICS_ROWS = 2048
PROJECTED_ROWS = 256


@dataclass(frozen=True)
class Projection:
    """x -> L2((x - mean) @ matrix); a matrix of one axis (D,) scales each dimension. A zero row stays zero.

    query_mean: the mean of user photos, in place of the gallery's `mean` for queries; None: the same.
    """

    mean: np.ndarray  # (D,) float64
    matrix: np.ndarray  # (D, M) float64, or (D,)
    query_mean: np.ndarray | None = None  # (D,) float64

    @property
    def of_queries(self) -> Projection:
        """The projection of user photos."""
        return self if self.query_mean is None else Projection(self.query_mean, self.matrix)


def learn_znormalisation(rows: np.ndarray, excluded: np.ndarray | None = None) -> Projection:
    """Return the z-normalisation of rows (n, D): (x - mean) / standard deviation, per dimension.

    excluded (n,) bool: rows that are left out. A dimension that never varies becomes zero.
    """
    total, count = np.zeros(rows.shape[1]), 0
    for block in _statistics_blocks(rows, excluded):
        total += np.add.reduce(block, axis=0)
        count += len(block)
    mean = total / max(count, 1)
    squares = np.zeros(rows.shape[1])
    for block in _statistics_blocks(rows, excluded):
        squares += np.add.reduce(np.square(block - mean), axis=0)
    deviation = np.sqrt(squares / max(count, 1))
    flat = deviation <= np.abs(mean) * 2.0**-40
    return Projection(mean, np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, deviation)))


@dataclass(frozen=True)
class PrincipalAxes:
    """What the whitenings of a sample share, whatever their dimension, exponent and shrinkage.

    mean (D,); axes (D, r) of falling eigenvalue, the largest entry of each positive; eigenvalues (r,) of the scatter;
    count: the rows it was summed over.
    """

    mean: np.ndarray
    axes: np.ndarray
    eigenvalues: np.ndarray
    count: int

    def whitening(self, dim: int, exponent: float = 1.0, shrinkage: float = 0.0) -> Projection:
        """Return the projection to at most `dim` dimensions, see `learn_whitening`."""
        if dim < 1 or not 0 <= shrinkage <= 1 or not np.isfinite(exponent):
            raise ConfigurationError(
                f"whitening to dim = {dim}, exponent = {exponent}, shrinkage = {shrinkage}: expected "
                "dim >= 1, a finite exponent, a shrinkage from 0 to 1"
            )
        rising = self.eigenvalues[::-1].copy()  # the order of the mean's additions
        shrunk = (1 - shrinkage) * self.eigenvalues[:dim] + shrinkage * rising.mean()
        axes = np.asfortranarray(self.axes[:, :dim])
        return Projection(np.asarray(self.mean), axes * (shrunk / self.count) ** (-exponent / 2))


def learn_whitening(
    rows: np.ndarray, dim: int, *, exponent: float = 1.0, shrinkage: float = 0.0, **sample: Any
) -> Projection:
    """Return PCA of rows (n, D) to at most `dim` dimensions, whitened; sample: see `principal_axes`.

    Each principal axis is divided by eigenvalue^(exponent / 2): 0 is plain PCA, 1 full whitening, 0.5 shrunk
    half way. shrinkage r in [0, 1]: eigenvalues become (1 - r) eigenvalue + r (their mean) before that.
    `dim` above the sample's rank gives the rank.
    """
    return principal_axes(rows, **sample).whitening(dim, exponent, shrinkage)


def principal_axes(
    rows: np.ndarray, *, excluded: np.ndarray | None = None, samples: int = 20_000, seed: int = 0
) -> PrincipalAxes:
    """Return the principal axes of rows (n, D). One thread, float64.

    excluded (n,) bool: rows left out (unreadable); samples: at most so many rows, drawn with `seed`, are learnt from.
    """
    from scipy.linalg import eigh  # a predict whose bundle holds what was learnt starts without it

    chosen = np.flatnonzero(~excluded) if excluded is not None else np.arange(len(rows))
    if len(chosen) > samples:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, samples, replace=False))
    if len(chosen) < 2:
        raise Top7Error(f"whitening needs at least 2 readable rows to learn from, found {len(chosen)}")
    blocks = [chosen[start : start + STATISTICS_ROWS] for start in range(0, len(chosen), STATISTICS_ROWS)]
    mean = sum(np.add.reduce(float64_rows(rows[block]), axis=0) for block in blocks) / len(chosen)
    with threadpool_limits(1):  # the bits of a product may depend on the threads
        if len(chosen) <= rows.shape[1]:
            centred = float64_rows(rows[chosen]) - mean
            eigenvalues, vectors = eigh(centred @ centred.T)
            axes = centred.T @ vectors / np.sqrt(np.maximum(eigenvalues, 1e-300))
        else:
            scatter = np.zeros((rows.shape[1],) * 2)
            for block in blocks:
                centred = float64_rows(rows[block]) - mean
                scatter += centred.T @ centred
            eigenvalues, axes = eigh(scatter)
    rounding = 1e-24 * len(chosen) * float(mean @ mean)  # equal rows differ by as much after a product
    least = max(1e-10 * eigenvalues.max(), rounding, 1e-310)
    kept = np.flatnonzero(eigenvalues > least)[::-1]
    if not len(kept):
        raise Top7Error(f"whitening: the {len(chosen)} rows to learn from are all equal")
    axes = axes[:, kept]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(kept))])
    return PrincipalAxes(mean, axes, eigenvalues[kept], len(chosen))


def learn_photo_whitening(
    rows: np.ndarray,
    scatter: np.ndarray,
    dim: int,
    *,
    shrinkage: float,
    exponent: float = 0.0,
    **sample: Any,
) -> Projection:
    """Return the whitening that makes little of what a photo changes, then PCA of rows (n, D) there to `dim` dimensions.

    scatter (D, D): the mean of d d^T, d a photo minus its image, see `features.whitening.within_scatter`; shrinkage:
    of it towards its mean eigenvalue. Learned whitening of Mikolajczyk and Matas (2007) and Radenović et al. (2018).
    exponent: of the PCA, as in `learn_whitening`; sample: see `principal_axes`. Memory: a few D x D and a block of rows.
    """
    return through(*photo_axes(rows, scatter, shrinkage, **sample), dim, exponent)


def photo_axes(
    rows: np.ndarray, scatter: np.ndarray, shrinkage: float, **sample: Any
) -> tuple[np.ndarray, PrincipalAxes]:
    """Return S^(-1/2) (D, D) of the shrunk scatter S, and the principal axes of rows @ S^(-1/2), with the rows' own mean."""
    with threadpool_limits(1):
        inverse, root = inverse_root(scatter, shrinkage)
        there = RowView([rows], lambda blocks: float64_rows(blocks[0]) @ inverse, rows.shape[1])
        found = principal_axes(there, **sample)
        return inverse, replace(found, mean=found.mean @ root)


def through(inverse: np.ndarray, axes: PrincipalAxes, dim: int, exponent: float) -> Projection:
    """Return the projection by `inverse` (D, D), then to at most `dim` principal axes."""
    found = axes.whitening(dim, exponent)
    with threadpool_limits(1):
        return Projection(found.mean, inverse @ found.matrix)


def projected(rows: np.ndarray, projection: Projection) -> np.ndarray:
    """Return L2((rows - mean) @ matrix), (m, M) float32; zero rows (unreadable images) stay zero."""
    rows = np.asarray(rows)
    if rows.shape[1] != len(projection.mean):
        raise Top7Error(
            f"rows of {rows.shape[1]} dimensions for a projection learnt on {len(projection.mean)}"
        )
    if projection.matrix.ndim == 1:
        result = (float64_rows(rows) - projection.mean) * projection.matrix
    else:
        result = np.empty((len(rows), projection.matrix.shape[1]))
        padded = np.zeros((PROJECTED_ROWS, rows.shape[1]))
        with threadpool_limits(1):
            for start in range(0, len(rows), PROJECTED_ROWS):  # one shape, so that a row's bits are its own
                block = rows[start : start + PROJECTED_ROWS]
                padded[: len(block)] = block - projection.mean
                padded[len(block) :] = 0.0
                result[start : start + len(block)] = (padded @ projection.matrix)[: len(block)]
    result[~np.any(rows, axis=1)] = 0.0
    return normalised(result).astype(np.float32)


def _statistics_blocks(rows: np.ndarray, excluded: np.ndarray | None):
    chosen: Sequence[int] | np.ndarray = (
        np.arange(len(rows)) if excluded is None else np.flatnonzero(~excluded)
    )
    for start in range(0, len(chosen), STATISTICS_ROWS):
        yield float64_rows(rows[chosen[start : start + STATISTICS_ROWS]])
