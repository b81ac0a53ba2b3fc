"""The similarity measures of the WMFF paper's Table 1, each as an inner product, so that one exact search
serves all.

Wang et al., Neurocomputing 2020, Table 1: cosine, normalised correlation, Euclidean distance, KL divergence.
Every measure turns queries and gallery rows into float64 vectors whose inner product is the measure (the
negative of a distance or divergence), row by row and as they are read; `features.search` then ranks by them
exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from competition.errors import ConfigurationError, Top7Error, nearest
from features.ranking.views import RowView, float64_rows, row_norms

KL_UNIFORM_SHARE = 1e-6  # how much of the uniform distribution is mixed into every descriptor

Components = Sequence[np.ndarray]
Measured = tuple[list, list, np.ndarray]


def centred(rows: np.ndarray) -> np.ndarray:
    """Return rows (m, D) with each row's own mean subtracted, then L2-normalised, float64.

    A row whose entries are all equal has no correlation: it becomes zero.
    """
    rows = float64_rows(rows)
    lengths = row_norms(rows)
    rows -= (np.add.reduce(rows, axis=-1) / rows.shape[1])[:, None]
    norms = row_norms(rows)
    flat = norms <= lengths * rows.shape[1] * 2.0**-52  # nothing but rounding is left
    rows /= np.where(flat, 1.0, norms)[:, None]
    rows[flat] = 0.0
    return rows


def concatenated(components: Components, weights: np.ndarray) -> RowView:
    """Return [√w_1 f_1, …, √w_L f_L] (n, ΣD_l) float64; its inner product is the fused cosine. Weights >= 0."""
    if (np.asarray(weights) < 0).any():
        raise Top7Error(
            f"weights {np.asarray(weights).tolist()}: components with a negative weight cannot be "
            "concatenated"
        )
    roots = np.sqrt(np.asarray(weights, dtype=np.float64))
    return RowView(
        components,
        lambda blocks: np.concatenate(
            [root * float64_rows(block) for root, block in zip(roots, blocks)], axis=1
        ),
        sum(component.shape[1] for component in components),
    )


def distribution(rows: np.ndarray) -> np.ndarray:
    """Return rows (m, D) as probability distributions, float64: negative entries count as zero, each row is
    divided by its sum, and KL_UNIFORM_SHARE of the uniform distribution is mixed in, so that no entry is
    zero. A row without a positive entry becomes uniform.
    """
    rows = np.maximum(float64_rows(rows), 0.0)
    sums = np.add.reduce(rows, axis=-1)
    rows /= np.where(sums > 0, sums, 1.0)[:, None]
    rows *= np.where(sums > 0, 1.0 - KL_UNIFORM_SHARE, 0.0)[:, None]
    rows += (np.where(sums > 0, KL_UNIFORM_SHARE, 1.0) / rows.shape[1])[:, None]
    return rows


def _kl_query(rows: np.ndarray) -> np.ndarray:
    """Σ q log x - Σ q log q, both against the uniform 1/D: smaller numbers, the same difference as Σ q = 1."""
    p = distribution(rows)
    logs = np.log(p * p.shape[1])
    return np.concatenate([p, -np.add.reduce(p * logs, axis=-1)[:, None]], axis=1)


def _kl_gallery(rows: np.ndarray) -> np.ndarray:
    p = distribution(rows)
    return np.concatenate([np.log(p * p.shape[1]), np.ones((len(p), 1))], axis=1)


def _distance_query(rows: np.ndarray) -> np.ndarray:
    """[2q, -1, -‖q‖²] against [x, ‖x‖², 1] gives -‖q - x‖²."""
    return np.concatenate([2 * rows, np.full((len(rows), 1), -1.0), -(row_norms(rows)[:, None] ** 2)], axis=1)


def _distance_gallery(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, row_norms(rows)[:, None] ** 2, np.ones((len(rows), 1))], axis=1)


def cosine(queries: Components, gallery: Components, weights: np.ndarray) -> Measured:
    """Σ w_l cos(q_l, x_l): the stored L2-normalised descriptors as they are."""
    return list(queries), list(gallery), np.asarray(weights, dtype=np.float64)


def correlation(queries: Components, gallery: Components, weights: np.ndarray) -> Measured:
    """Σ w_l ρ(q_l, x_l): normalised correlation layer by layer, each descriptor minus its own mean."""

    def views(components):
        return [RowView([c], lambda blocks: centred(blocks[0]), c.shape[1]) for c in components]

    return views(queries), views(gallery), np.asarray(weights, dtype=np.float64)


def correlation_concatenated(queries: Components, gallery: Components, weights: np.ndarray) -> Measured:
    """ρ([√w_l q_l], [√w_l x_l]): one mean over the whole concatenation."""

    def view(components):
        joined = concatenated(components, weights)
        return [RowView(joined.sources, lambda blocks: centred(joined.function(blocks)), joined.shape[1])]

    return view(queries), view(gallery), np.ones(1)


def euclidean_normalised(queries: Components, gallery: Components, weights: np.ndarray) -> Measured:
    """-Σ w_l ‖q_l - x_l‖² on the L2-normalised descriptors; ranks as cosine does."""

    def views(components, function):
        return [
            RowView([c], lambda blocks: function(float64_rows(blocks[0])), c.shape[1] + 2) for c in components
        ]

    return (
        views(queries, _distance_query),
        views(gallery, _distance_gallery),
        np.asarray(weights, dtype=np.float64),
    )


def euclidean_raw(
    queries: Components,
    gallery: Components,
    weights: np.ndarray,
    *,
    query_norms: Components | None,
    gallery_norms: Components | None,
) -> Measured:
    """-Σ w_l ‖Q_l - X_l‖² on the descriptors before L2, rebuilt as norm times stored row.

    norms: L arrays (n,) float32, kept beside the dumps. Inside, both are divided by a power of two near the
    gallery's largest norm (exact, and undone in the weights), which keeps the search's rounding margin small.
    """
    if query_norms is None or gallery_norms is None:
        raise Top7Error(
            "Euclidean distance on raw descriptors needs the norms before L2, kept beside the dumps as "
            ".norms.npy: extract again, or use euclidean_normalised"
        )
    scales = [
        2.0 ** np.ceil(np.log2(max(float(np.max(norms, initial=0.0)), 2.0**-100))) for norms in gallery_norms
    ]

    def views(components, all_norms, function):
        return [
            RowView(
                [c, norms],
                lambda blocks, scale=scale: function(
                    float64_rows(blocks[0]) * (float64_rows(blocks[1]) / scale)[:, None]
                ),
                c.shape[1] + 2,
            )
            for c, norms, scale in zip(components, all_norms, scales, strict=True)
        ]

    return (
        views(queries, query_norms, _distance_query),
        views(gallery, gallery_norms, _distance_gallery),
        np.asarray(weights, dtype=np.float64) * np.square(scales),
    )


def kl_divergence(queries: Components, gallery: Components, weights: np.ndarray) -> Measured:
    """-Σ w_l KL(q_l ‖ x_l), descriptors read as distributions; see `distribution` for negative and zero
    entries.
    """

    def views(components, function):
        return [RowView([c], lambda blocks: function(blocks[0]), c.shape[1] + 1) for c in components]

    return views(queries, _kl_query), views(gallery, _kl_gallery), np.asarray(weights, dtype=np.float64)


MEASURES: dict[str, Callable[..., Measured]] = {
    "cosine": cosine,
    "correlation": correlation,
    "correlation_concatenated": correlation_concatenated,
    "euclidean_raw": euclidean_raw,
    "euclidean_normalised": euclidean_normalised,
    "kl_divergence": kl_divergence,
}


def measured(
    name: str,
    queries: Components,
    gallery: Components,
    weights: np.ndarray,
    *,
    query_norms: Components | None = None,
    gallery_norms: Components | None = None,
) -> Measured:
    """Return queries, gallery and weights for `features.search.search`, which then ranks by measure `name`.

    Nothing is computed until rows are read. Raises ConfigurationError for an unknown name, Top7Error where a
    measure needs norms and there are none.
    """
    if name not in MEASURES:
        raise ConfigurationError(f"unknown measure {name!r}: {nearest(name, MEASURES)}")
    if name == "euclidean_raw":
        return euclidean_raw(queries, gallery, weights, query_norms=query_norms, gallery_norms=gallery_norms)
    return MEASURES[name](queries, gallery, weights)
