"""Projections learnt from rows and applied to rows: a mean (D,) and a matrix (D, M), or a scale (D,).

`features/whitening.py` has the dual form that part detectors need. Statistics are summed over blocks of a fixed size,
so they do not depend on how rows are read; projections are taken in float64 and rounded to float32, in blocks of a
fixed shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from competition.errors import Top7Error
from features.dumps.derived import derived
from features.ranking.state import State
from features.search.row_views import float64_rows, normalised
from features.search.threads import one_blas_thread

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
        """Return the projection to at most `dim` dimensions: axes times (shrunk eigenvalue)^(-exponent / 2)."""
        rising = self.eigenvalues[::-1].copy()  # the order of the mean's additions
        shrunk = (1 - shrinkage) * self.eigenvalues[:dim] + shrinkage * rising.mean()
        axes = np.asfortranarray(self.axes[:, :dim])
        return Projection(np.asarray(self.mean), axes * (shrunk / self.count) ** (-exponent / 2))


def principal_axes(
    rows: np.ndarray, *, excluded: np.ndarray | None = None, samples: int = 20_000, seed: int = 0
) -> PrincipalAxes:
    """Return the principal axes of rows (n, D). One thread, float64.

    excluded (n,) bool: rows left out (unreadable); samples: at most so many rows, drawn with `seed`, are learnt from.
    """
    from scipy.linalg import eigh  # a predict whose bundle holds what was learnt starts without it

    chosen = np.arange(len(rows)) if excluded is None else np.flatnonzero(~excluded)
    if len(chosen) > samples:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, samples, replace=False))
    if len(chosen) < 2:
        raise Top7Error(f"whitening needs at least 2 readable rows to learn from, found {len(chosen)}")
    mean = sum(np.add.reduce(block, axis=0) for block in statistics_blocks(rows, chosen)) / len(chosen)
    with threadpool_limits(1):  # the bits of a product may depend on the threads
        if len(chosen) <= rows.shape[1]:
            centred = float64_rows(rows[chosen]) - mean
            eigenvalues, vectors = eigh(centred @ centred.T)
            axes = centred.T @ vectors / np.sqrt(np.maximum(eigenvalues, 1e-300))
        else:
            scatter = np.zeros((rows.shape[1],) * 2)
            for block in statistics_blocks(rows, chosen):
                centred = block - mean
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
        with one_blas_thread():
            for start in range(0, len(rows), PROJECTED_ROWS):  # one shape, so that a row's bits are its own
                block = rows[start : start + PROJECTED_ROWS]
                padded[: len(block)] = block - projection.mean
                padded[len(block) :] = 0.0
                result[start : start + len(block)] = (padded @ projection.matrix)[: len(block)]
    result[~np.any(rows, axis=1)] = 0.0
    return normalised(result).astype(np.float32)


def statistics_blocks(rows: np.ndarray, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of these numbers, float64, in blocks of a fixed size."""
    for start in range(0, len(chosen), STATISTICS_ROWS):
        yield float64_rows(rows[chosen[start : start + STATISTICS_ROWS]])


def kept_axes(
    state: State,
    name: str,
    rows: np.ndarray,
    learn: Callable[[], tuple[Mapping[str, np.ndarray], PrincipalAxes]],
    *,
    count: int,
    more: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], PrincipalAxes]:
    """Return what `learn` does: matrices (D, D) by the names `more`, and principal axes of `rows`.

    Kept under `name` where many settings are tried; count: the rows that are learnt from.
    """
    width = rows.shape[1]
    rank = max(1, min(width, count - 1))

    def matrices(*whole: int) -> list[np.ndarray]:
        others, found = learn()
        axes, eigenvalues = np.zeros((width, rank)), np.zeros(width)
        axes[:, : found.axes.shape[1]], eigenvalues[: len(found.eigenvalues)] = found.axes, found.eigenvalues
        return [found.mean, eigenvalues, axes, *(others[key] for key in more)]

    widths = {"mean": 0, "eigenvalues": 0, "axes": rank} | dict.fromkeys(more, width)
    columns = {key: (each, "float64") for key, each in widths.items()}
    folder = state.folder if state.many else None
    kept = derived(folder, "axes", {"of": name}, width, columns, matrices, block_rows=width)
    positive = int(np.count_nonzero(kept["eigenvalues"]))
    eigenvalues = np.array(kept["eigenvalues"][:positive])
    axes = PrincipalAxes(np.array(kept["mean"]), kept["axes"][:, :positive], eigenvalues, count)
    return {key: kept[key] for key in more}, axes


def project_components(
    state: State, names: Sequence[str], dim: int, readable: Sequence[int], learn: Callable[[int], Projection]
) -> State:
    """Return the state after a projection to at most `dim` dimensions for each component, learnt once and kept.

    names: of the components afterwards; readable: how many rows each is learnt from; learn(number) -> Projection.
    """
    gallery, projections = [], []
    for number, (name, part) in enumerate(zip(names, state.gallery)):
        width = max(1, min(dim, part.shape[1], readable[number] - 1))

        def matrices(*whole: int) -> list[np.ndarray]:
            found = learn(number)
            matrix = np.zeros((len(found.mean), width))  # columns past the rank stay zero
            matrix[:, : found.matrix.shape[1]] = found.matrix
            return [found.mean, found.of_queries.mean, matrix]

        columns = {"mean": (0, "float64"), "query_mean": (0, "float64"), "matrix": (width, "float64")}
        size, of = part.shape[1], {"of": name}
        kept = derived(state.rows_folder, "whitening", of, size, columns, matrices, block_rows=size)
        projection = Projection(*(np.asarray(kept[key]) for key in ("mean", "matrix", "query_mean")))

        def whitened(start: int, stop: int) -> np.ndarray:
            return projected(part[start:stop], projection)

        projections.append(projection)
        gallery.append(state.kept_rows("whitened", name, part, width, whitened))
    return state.changed(
        **state.asked(
            lambda parts: [projected(part, own.of_queries) for part, own in zip(parts, projections)],
            lambda parts: list(map(projected, parts, projections)),
        ),
        gallery=tuple(gallery),
        identity=tuple(names),
        unit=True,
    )
