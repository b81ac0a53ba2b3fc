"""The step augment: every gallery image joined with its own nearest gallery images, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from features.ranking.arguments import Weights, number, one_of, whole
from features.ranking.state import State, spread
from features.ranking.steps.expand import WEIGHTINGS, expand
from features.ranking.steps.step import LISTED, Step


class Augment(Step, frozen=True):
    """Database-side augmentation: x -> L2(x + Σ_i w_i n_i(x)), n_i the i-th nearest other gallery image, w as `expand`.

    Every image is joined with its own neighbours, unlike a published script that added one fixed row to all.
    weights: of the score by which they are nearest, one number for each entry of the recipe's components; None: the
    recipe's own weights. Turcot and Lowe (ICCV workshops 2009); Arandjelović and Zisserman (CVPR 2012), section 4.
    """

    tunable: ClassVar = {
        "neighbours": (0, 1, 2, 3, 5),
        "kind": ("average", "weighted", "alpha"),
        "alpha": (1.0, 3.0),
    }
    keeps_files: ClassVar[bool] = True
    whole_gallery: ClassVar[bool] = True
    shuns_photos: ClassVar[bool] = True
    neighbours: Annotated[int, whole(0, LISTED)]
    kind: Annotated[str, one_of("weighting", WEIGHTINGS)] = "average"
    alpha: Annotated[float, number(0, 100)] = 3.0
    weights: Weights | None = None

    @property
    def independent(self) -> bool:
        return self.weights is not None

    @property
    def own_weights(self) -> Sequence[Sequence[float]]:
        return [self.weights or ()]

    def fault(self) -> str | None:
        return None if self.weights is None or any(self.weights) else self.has("weights")

    def __call__(self, state: State) -> State:
        if self.neighbours == 0:
            return state
        nearest_by = state.weights if self.weights is None else spread(self.weights, state.groups)
        joining: dict[str, Any] = dict(neighbours=self.neighbours, kind=self.kind, alpha=self.alpha)
        rows, scores = state.graph(self.neighbours, nearest_by)
        names = state.identity_after(
            "augment",
            **joining,
            together=[name for name, weight in zip(state.identity, nearest_by) if weight],
            weights=[float(weight) for weight in nearest_by if weight],
        )

        def augmented(name: str, part: np.ndarray) -> np.ndarray:
            def block(start: int, stop: int) -> np.ndarray:
                return expand([part[start:stop]], [part], rows[start:stop], scores[start:stop], **joining)[0]

            return state.kept_rows("augmented", name, part, part.shape[1], block)

        return state.changed(gallery=tuple(map(augmented, names, state.gallery)), identity=names, unit=True)
