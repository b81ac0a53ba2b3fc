"""Steps of a recipe that look at lists: expansion asks again, the others make the last lists themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from competition.atomic import scratch_folder
from features.ranking import cascade as cascades
from features.ranking.approximate import SAMPLED_QUERIES, approximate_search
from features.ranking.expansion import expand
from features.ranking.indexing import build_index
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


def cascade(state: State, *, stages: Sequence[Mapping[str, Any]]) -> State:
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


def approximate(
    state: State,
    *,
    index: str,
    candidates: int = 100,
    checked: int = SAMPLED_QUERIES,
    seed: int = 0,
    links: int | None = None,
    construction: int | None = None,
    breadth: int | None = None,
    lists: int | None = None,
    probes: int | None = None,
    training: int | None = None,
    code_bytes: int | None = None,
    threads: int | None = None,
) -> State:
    """The last search through an index (hnsw, ivfpq or ivf_ondisk) of the present descriptors instead of all of them.

    The index, built once under the state's folder, proposes `candidates` images a query, which are scored and ordered
    as by the exact search; at most `checked` queries are searched exactly as well, and the recall is printed. Earlier
    looks (an expansion's) stay exact. links to threads: see `features.ranking.indexing.default_parameters`.
    """
    given = dict(
        links=links,
        construction=construction,
        breadth=breadth,
        lists=lists,
        probes=probes,
        training=training,
        code_bytes=code_bytes,
        threads=threads,
    )
    used = (
        state.of(np.flatnonzero(state.weights), state.weights[state.weights != 0])
        if state.weights.any()
        else state
    )
    with nullcontext(state.folder) if state.folder else scratch_folder() as folder:
        built = build_index(
            used.gallery,
            used.weights,
            index,
            folder,
            excluded=used.excluded,
            identity=used.identity,
            seed=seed,
            progress=used.progress,
            **{name: value for name, value in given.items() if value is not None},
        )
        ranks, scores, _ = approximate_search(
            built,
            used.queries,
            used.gallery,
            used.weights,
            used.k,
            candidates=candidates,
            excluded=used.excluded,
            sample=checked,
            seed=seed,
            norm_bounds=used.norm_bounds,
        )
    return replace(state, ranks=ranks, scores=scores)
