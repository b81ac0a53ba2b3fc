"""The step znormalise: every dimension of mean 0 and deviation 1."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from features.ranking.arguments import Flag
from features.ranking.principal_axes import Projection, projected, statistics_blocks
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.ranking.steps.whiten import learning_rows, seen_queries
from features.search.row_views import RowView


class ZNormalise(Step, frozen=True):
    """(x - mean) / standard deviation per dimension, then L2, for each component (GAN, AI Meets Beauty 2018)."""

    centres: ClassVar[bool] = True
    independent: ClassVar[bool] = True
    transductive: Flag = False

    def __call__(self, state: State) -> State:
        learnt = [
            learn_znormalisation(rows, excluded) for rows, excluded in learning_rows(state, self.transductive)
        ]

        def normalised(part: np.ndarray, own: Projection) -> RowView:
            return RowView([part], lambda blocks: projected(blocks[0], own), part.shape[1], np.float32)

        return state.changed(
            **state.asked(lambda parts: list(map(projected, parts, learnt))),
            gallery=tuple(map(normalised, state.gallery, learnt)),
            unit=True,
            identity=state.identity_after("znormalise", seen=seen_queries(state, self.transductive)),
        )


def learn_znormalisation(rows: np.ndarray, excluded: np.ndarray) -> Projection:
    """Return the z-normalisation of rows (n, D): (x - mean) / standard deviation, per dimension.

    excluded (n,) bool: rows that are left out. A dimension that never varies becomes zero.
    """
    chosen = np.flatnonzero(~excluded)
    total, squares, count = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), max(len(chosen), 1)
    for block in statistics_blocks(rows, chosen):
        total += np.add.reduce(block, axis=0)
    mean = total / count
    for block in statistics_blocks(rows, chosen):
        squares += np.add.reduce(np.square(block - mean), axis=0)
    deviation = np.sqrt(squares / count)
    flat = deviation <= np.abs(mean) * 2.0**-40
    return Projection(mean, np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, deviation)))
