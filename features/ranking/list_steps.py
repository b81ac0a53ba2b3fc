"""Steps of a recipe that look at lists: expansion asks again, the others make the last lists themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from features.ranking import cascade as cascades
from features.ranking.expansion import expand
from features.ranking.state import State, spread


def expand_queries(
    state: State, *, neighbours: int, kind: str = "average", alpha: float = 3.0, rounds: int = 1
) -> State:
    """Every query joined with the gallery images it finds, `rounds` times."""
    for _ in range(rounds):
        ranks, scores = state.lists(max(neighbours, 1))
        queries = expand(
            state.queries, state.gallery, ranks, scores, neighbours=neighbours, kind=kind, alpha=alpha
        )
        state = state.changed(queries=tuple(queries))
    return state


def cascade(state: State, *, stages: Sequence[Mapping[str, object]]) -> State:
    """Stages {"weights": one number for each entry of the recipe's components, "keep": images kept}."""
    plan = [(spread(stage["weights"], state.groups), max(int(stage["keep"]), state.k)) for stage in stages]
    ranks, scores = cascades.cascade(
        state.queries,
        state.gallery,
        plan,
        excluded=state.excluded,
        norm_bounds=state.norm_bounds,
        progress=state.progress,
    )
    return replace(state, ranks=ranks, scores=scores)
