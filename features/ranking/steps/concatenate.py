"""The step concatenate: one component of all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from features.dumps.derived import digest_of
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.search.row_views import concatenated


class Concatenate(Step, frozen=True):
    """One component [√w_1 f_1, …, √w_L f_L], whose inner product is the fused cosine."""

    def __call__(self, state: State) -> State:
        if len(state.gallery) == 1:
            return state
        name = f"concatenation-{digest_of([state.identity, state.weights.tolist()])}"
        unit = state.unit and abs(state.weights.sum() - 1) < 1e-6
        return replace(joined(state, state.weights, name), unit=unit)


def joined(state: State, weights: np.ndarray, name: str) -> State:
    """Return the state with one component of all, concatenated with weights (L,), whose identity is `name`."""
    return state.changed(
        **state.asked(lambda parts: [concatenated(parts, weights)]),
        gallery=(concatenated(state.gallery, weights),),
        weights=np.ones(1),
        groups=(0,),
        identity=(name,),
    )
