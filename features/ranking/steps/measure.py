"""The step measure: the similarity measures of the WMFF paper's Table 1, each as an inner product.

Wang et al., Neurocomputing 2020, Table 1: cosine, normalised correlation, Euclidean distance, KL divergence. Every
measure turns queries and gallery rows into float64 vectors whose inner product is the measure (the negative of a
distance or divergence), row by row and as they are read; `features.search.exact_search` then ranks by them exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from competition.errors import Top7Error
from features.dumps.derived import digest_of
from features.ranking.arguments import one_of
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.search.row_views import RowView, concatenated, float64_rows, row_norms

KL_UNIFORM_SHARE = 1e-6  # how much of the uniform distribution is mixed into every descriptor
PER_COMPONENT = ("cosine", "correlation")  # measures of unit rows that know nothing of the weights

Components = Sequence[np.ndarray]


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


def distribution(rows: np.ndarray) -> np.ndarray:
    """Return rows (m, D) as probability distributions, float64.

    Negative entries count as zero, each row is divided by its sum, and KL_UNIFORM_SHARE of the uniform distribution is
    mixed in, so that no entry is zero. A row without a positive entry becomes uniform.
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
    rows = float64_rows(rows)
    return np.concatenate([2 * rows, np.full((len(rows), 1), -1.0), -(row_norms(rows)[:, None] ** 2)], axis=1)


def _distance_gallery(rows: np.ndarray) -> np.ndarray:
    rows = float64_rows(rows)
    return np.concatenate([rows, row_norms(rows)[:, None] ** 2, np.ones((len(rows), 1))], axis=1)


def _before_l2(components: Components, norms: Components, scales: np.ndarray) -> list:
    """The descriptors before L2, rebuilt as norm times stored row, each component divided by its scale."""

    def view(rows: np.ndarray, lengths: np.ndarray, scale: float) -> RowView:
        def rebuilt(blocks: list[np.ndarray]) -> np.ndarray:
            return float64_rows(blocks[0]) * (float64_rows(blocks[1]) / scale)[:, None]

        return RowView([rows, lengths], rebuilt, rows.shape[1])

    return list(map(view, components, norms, scales))


# of one component: the vector of a query, that of a gallery row, how many dimensions they have more
_BY_COMPONENT: dict[str, tuple[Callable, Callable, int]] = {
    "correlation": (centred, centred, 0),  # Σ w_l ρ(q_l, x_l), each descriptor minus its own mean
    "correlation_concatenated": (centred, centred, 0),  # ρ([√w_l q_l], [√w_l x_l]): one mean over all
    # -Σ w_l ‖Q_l - X_l‖², before L2; and -Σ w_l ‖q_l - x_l‖², which ranks as cosine does
    "euclidean_raw": (_distance_query, _distance_gallery, 2),
    "euclidean_normalised": (_distance_query, _distance_gallery, 2),
    "kl_divergence": (_kl_query, _kl_gallery, 1),  # -Σ w_l KL(q_l ‖ x_l), see `distribution`
}
MEASURES = ("cosine", *_BY_COMPONENT)


def measured(
    name: str,
    queries: Components,
    gallery: Components,
    weights: np.ndarray,
    *,
    query_norms: Components | None = None,
    gallery_norms: Components | None = None,
) -> tuple[list, list, np.ndarray]:
    """Return queries, gallery and weights for `features.search.exact_search.search`, which then ranks by measure `name`.

    norms: L arrays (n,) float32, kept beside the dumps. Nothing is computed until rows are read. Raises Top7Error where a
    measure needs norms and there are none.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if name == "cosine":  # Σ w_l cos(q_l, x_l): the stored L2-normalised descriptors as they are
        return list(queries), list(gallery), weights
    if name == "correlation_concatenated":
        queries, gallery = [concatenated(queries, weights)], [concatenated(gallery, weights)]
        weights = np.ones(1)
    if name == "euclidean_raw":
        if query_norms is None or gallery_norms is None:
            raise Top7Error(
                "Euclidean distance on raw descriptors needs the norms before L2, kept beside the dumps as "
                ".norms.npy: extract again, or use euclidean_normalised"
            )
        # a power of two near the largest norm: exact, undone in the weights, and keeps the search's margin small
        largest = [max(float(np.max(norms, initial=0.0)), 2.0**-100) for norms in gallery_norms]
        scales = 2.0 ** np.ceil(np.log2(largest))
        queries, gallery = (
            _before_l2(queries, query_norms, scales),
            _before_l2(gallery, gallery_norms, scales),
        )
        weights = weights * np.square(scales)
    of_query, of_gallery, more = _BY_COMPONENT[name]

    def views(components: Components, function: Callable) -> list:
        return [RowView([c], lambda blocks: function(blocks[0]), c.shape[1] + more) for c in components]

    return views(queries, of_query), views(gallery, of_gallery), weights


class Measure(Step, frozen=True):
    """Another measure of Wang et al.'s Table 1 in place of the cosine."""

    name: Annotated[str, one_of("measure", MEASURES)]

    @property
    def independent(self) -> bool:
        return self.name in PER_COMPONENT

    @property
    def parts_photos(self) -> bool:
        return self.name not in PER_COMPONENT

    def __call__(self, state: State) -> State:
        norms = {"query_norms": state.query_norms, "gallery_norms": state.gallery_norms}
        _, gallery, weights = measured(self.name, state.queries, state.gallery, state.weights, **norms)
        joined = len(gallery) != len(state.gallery)
        names = state.identity_after(self.name)
        if self.parts_photos:
            state = replace(state, photos=None)  # `check_steps` lets nothing learn from them afterwards
        return state.changed(
            **state.asked(lambda parts: measured(self.name, parts, state.gallery, state.weights, **norms)[0]),
            gallery=tuple(gallery),
            weights=weights,
            groups=(0,) if joined else state.groups,
            identity=(digest_of([self.name, state.identity, state.weights.tolist()]),) if joined else names,
            unit=state.unit and self.name in (*PER_COMPONENT, "correlation_concatenated"),
        )
