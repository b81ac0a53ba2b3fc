"""The step concatenate: one component of all."""

from __future__ import annotations

import numpy as np

from features.dumps.derived import digest_of
from features.ranking.state import State
from features.ranking.steps.step import Step
from features.ranking.views import concatenated


class Concatenate(Step, frozen=True):
    """One component [√w_1 f_1, …, √w_L f_L], whose inner product is the fused cosine."""

    def __call__(self, state: State) -> State:
        if len(state.gallery) == 1:
            return state
        return state.changed(
            **state.asked(lambda parts: [concatenated(parts, state.weights)]),
            gallery=(concatenated(state.gallery, state.weights),),
            weights=np.ones(1),
            groups=(0,),
            identity=(f"concatenation-{digest_of([state.identity, state.weights.tolist()])}",),
            unit=state.unit and abs(state.weights.sum() - 1) < 1e-6,
        )
