"""The step cascade: rankings one after the other, many images kept cheaply, few ranked with care."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from features.ranking.arguments import Weights, whole
from features.ranking.state import State, spread
from features.ranking.steps.step import Step
from features.search.exact_search import rescored


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stage of a cascade. weights: one number for each entry of the recipe's components; keep: images kept."""

    weights: Weights
    keep: Annotated[int, whole(1)]


Stages = Annotated[
    list[Stage],
    Meta(
        min_length=1,
        description='a list of stages like {"weights": [1, 2], "keep": 100}, with weights >= 0 that are not all 0 and '
        "none that keeps more than the one before",
    ),
]


class Cascade(Step, frozen=True):
    """Ranks in stages: the first searches the whole gallery exactly, each later one ranks what the stage before kept.

    Each by weights of its own (WISLAB, AI Meets Beauty 2018, third place).
    """

    makes_lists: ClassVar[bool] = True
    stages: Stages

    @property
    def plan(self) -> list[Stage]:
        """The stages, typed."""
        return msgspec.convert(self.stages, list[Stage])

    @property
    def own_weights(self) -> Sequence[Sequence[float]]:
        return [stage.weights for stage in self.plan]

    def fault(self) -> str | None:
        kept = [stage.keep for stage in self.plan]
        if kept != sorted(kept, reverse=True) or not all(any(stage.weights) for stage in self.plan):
            return self.has("stages")
        return None

    def __call__(self, state: State) -> State:
        for number, stage in enumerate(self.plan):
            weights, keep = spread(stage.weights, state.groups), max(stage.keep, state.k)
            if number == 0:
                ranks, scores = state.searched(weights, keep)
            else:
                ranks, scores = rescored(state.queries, state.gallery, weights, ranks, keep)
        return replace(state, ranks=ranks, scores=scores)
