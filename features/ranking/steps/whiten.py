"""The step whiten: principal components of a gallery, whitened, shrunk or plain."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np

from features.dumps.derived import content_digest
from features.ranking.arguments import Flag, Seed, number, whole
from features.ranking.principal_axes import (
    PrincipalAxes,
    Projection,
    kept_axes,
    principal_axes,
    project_components,
)
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.search.row_views import RowStack


def learning_rows(state: State, transductive: bool) -> list[tuple[Any, np.ndarray]]:
    """Return (rows to learn from, which of them not) for each component: the gallery's, and the queries' if told."""
    if not transductive:
        return [(part, state.excluded) for part in state.gallery]
    return [
        (RowStack([part, query]), np.concatenate([state.excluded, ~query.any(axis=1)]))
        for part, query in zip(state.gallery, state.queries)
    ]


def seen_queries(state: State, transductive: bool) -> list[str]:
    """Return what tells the queries apart in the names of what is learnt from them."""
    return [content_digest(part) for part in state.queries] if transductive else []


class Whiten(Step, frozen=True):
    """PCA to at most `dim` dimensions, whitened (exponent 1), shrunk (0.5) or plain (0), then L2, for each component.

    x -> L2((x - mean) V diag(e)^(-exponent / 2)), V the principal axes, e the eigenvalues of the covariance after
    shrinkage r towards their mean, (1 - r) e + r mean(e). Jégou and Chum, Negative evidences and co-occurrences in
    image retrieval (ECCV 2012), section 3.
    """

    tunable: ClassVar = {
        "dim": (64, 128, 256, 512),
        "exponent": (0.0, 0.5, 1.0),
        "shrinkage": (0.0, 0.1, 0.3),
    }
    centres: ClassVar[bool] = True
    independent: ClassVar[bool] = True
    keeps_files: ClassVar[bool] = True
    dim: Annotated[int, whole(1)]
    exponent: Annotated[float, number(0, 4)] = 1.0
    shrinkage: Annotated[float, number(0, 1)] = 0.0
    samples: Annotated[int, whole(2)] = 20_000
    seed: Seed = 0
    transductive: Flag = False

    def __call__(self, state: State) -> State:
        seen = seen_queries(state, self.transductive)
        sample: dict[str, Any] = dict(samples=self.samples, seed=self.seed)
        scaling: dict[str, Any] = dict(dim=self.dim, exponent=self.exponent, shrinkage=self.shrinkage)
        names = state.identity_after("whiten", **scaling, **sample, seen=seen)
        shared = state.identity_after("axes", **sample, seen=seen)
        learning = learning_rows(state, self.transductive)

        def learn(place: int) -> Projection:
            rows, excluded = learning[place]
            count = min(self.samples, int(np.sum(~excluded)))

            def axes() -> tuple[dict[str, np.ndarray], PrincipalAxes]:
                return {}, principal_axes(rows, excluded=excluded, **sample)

            return kept_axes(state, shared[place], rows, axes, count=count)[1].whitening(**scaling)

        readable = [int(np.sum(~excluded)) for _, excluded in learning]
        return project_components(state, names, self.dim, readable, learn)
