"""A recipe's steps: plain JSON objects {"step": name, ...keyword arguments}, applied in order to descriptors.

Steps that change descriptors (concatenate, znormalise, whiten, augment, expand, measure) come first; a last
step (cascade, reciprocal, diffuse) may make the lists; without one an exact search does. What a step learns,
it learns from the gallery alone, unless `"transductive": true` is written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.errors import ConfigurationError, nearest
from features.ranking import cascade as cascades
from features.ranking.augmentation import augmented_rows
from features.ranking.derived import content_digest, derived, digest_of
from features.ranking.expansion import expand
from features.ranking.measures import concatenated, measured
from features.ranking.neighbours import neighbour_graph
from features.ranking.projection import Projection, learn_whitening, learn_znormalisation, projected
from features.ranking.rerankers import diffusion_lists, reciprocal_lists
from features.ranking.state import State, spread
from features.ranking.views import RowStack, RowView


def rank(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[Mapping[str, object]],
    k: int,
    *,
    excluded: np.ndarray | None = None,
    groups: Sequence[int] | None = None,
    identity: Sequence[str] | None = None,
    query_norms: Sequence[np.ndarray] | None = None,
    gallery_norms: Sequence[np.ndarray] | None = None,
    unit: bool = False,
    folder: Path | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64 after a recipe's steps, best first, -1 and -inf for
    missing.

    queries, gallery: L arrays (Q, D_l) and (n, D_l); weights (L,); steps: see STEPS; groups (L,): for
    cascades, the entry of the recipe each component stems from (default: each its own); folder: where graphs
    and changed galleries are kept (None: in memory); identity (L,): what tells the gallery's components apart
    in their names (default: a digest of all bytes); unit: rows are L2-normalised for certain, as dumps are.
    Raises ConfigurationError for a step that is unknown, misplaced or has a wrong argument.
    """
    check_steps(steps)
    count = len(gallery)
    if identity is None:
        identity = [content_digest(part) for part in gallery] if folder is not None else [""] * count
    state = State(
        tuple(np.asarray(part) for part in queries),
        tuple(gallery),
        np.asarray(weights, dtype=np.float64),
        tuple(range(count)) if groups is None else tuple(groups),
        tuple(identity),
        np.zeros(len(gallery[0]), bool) if excluded is None else np.asarray(excluded, dtype=bool),
        k,
        unit,
        None if query_norms is None else tuple(query_norms),
        None if gallery_norms is None else tuple(gallery_norms),
        folder,
        progress,
    )
    for step in steps:
        arguments = {key: value for key, value in step.items() if key != "step"}
        state = STEPS[step["step"]](state, **arguments)
    return state.lists(k)


def check_steps(steps: Sequence[Mapping[str, object]]) -> None:
    """Raise ConfigurationError unless every step is known, has the arguments it needs and stands in a place
    it can.
    """
    last = None
    for number, step in enumerate(steps, start=1):
        name = step.get("step") if isinstance(step, Mapping) else None
        if name not in STEPS:
            raise ConfigurationError(f"step {number} of the recipe is {name!r}: {nearest(name, STEPS)}")
        parameters = {
            key: parameter
            for key, parameter in inspect.signature(STEPS[name]).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        for key in step:
            if key != "step" and key not in parameters:
                raise ConfigurationError(
                    f"step {number} of the recipe, {name}, has no {key!r}: {nearest(key, parameters)}"
                )
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in step:
                raise ConfigurationError(f"step {number} of the recipe, {name}, lacks {key!r}")
        if last in FINAL:
            raise ConfigurationError(
                f"step {number} of the recipe, {name}, comes after {last}, which makes the lists: "
                "put it before"
            )
        last = name


def concatenate(state: State) -> State:
    """One component [√w_1 f_1, …, √w_L f_L], of the same fused cosine."""
    identity = f"concatenation-{digest_of([state.identity, state.weights.tolist()])}"
    if len(state.gallery) == 1:
        return state
    return state.changed(
        queries=(np.asarray(concatenated(state.queries, state.weights)),),
        gallery=(concatenated(state.gallery, state.weights),),
        weights=np.ones(1),
        groups=(0,),
        identity=(identity,),
        unit=state.unit and abs(state.weights.sum() - 1) < 1e-6,
    )


def measure(state: State, *, name: str) -> State:
    """Another measure of the paper's Table 1, see `features.ranking.measures`."""
    queries, gallery, weights = measured(
        name,
        state.queries,
        state.gallery,
        state.weights,
        query_norms=state.query_norms,
        gallery_norms=state.gallery_norms,
    )
    joined = len(gallery) != len(state.gallery)
    identity = (
        (digest_of([name, state.identity, state.weights.tolist()]),) if joined else state.identity_after(name)
    )
    return state.changed(
        queries=tuple(np.asarray(part) for part in queries),
        gallery=tuple(gallery),
        weights=weights,
        groups=(0,) if joined else state.groups,
        identity=identity,
        unit=state.unit and name in ("cosine", "correlation", "correlation_concatenated"),
    )


def znormalise(state: State, *, transductive: bool = False) -> State:
    """(x - mean) / standard deviation per dimension, then L2, for each component."""
    gallery, queries = [], []
    for rows, excluded, part, query in _learning_rows(state, transductive):
        learnt = learn_znormalisation(rows, excluded)
        gallery.append(
            RowView([part], lambda blocks, learnt=learnt: projected(blocks[0], learnt), part.shape[1])
        )
        queries.append(projected(query, learnt))
    seen = _seen_queries(state, transductive)
    return state.changed(
        queries=tuple(queries),
        gallery=tuple(gallery),
        unit=True,
        identity=state.identity_after("znormalise", seen=seen),
    )


def whiten(
    state: State,
    *,
    dim: int,
    exponent: float = 1.0,
    shrinkage: float = 0.0,
    samples: int = 20_000,
    seed: int = 0,
    transductive: bool = False,
) -> State:
    """PCA to at most `dim` dimensions, whitened (exponent 1), shrunk (0.5) or plain (0), then L2, for each
    component.
    """
    arguments = dict(
        dim=dim,
        exponent=exponent,
        shrinkage=shrinkage,
        samples=samples,
        seed=seed,
        seen=_seen_queries(state, transductive),
    )
    names = state.identity_after("whiten", **arguments)
    gallery, queries = [], []
    for name, (rows, excluded, part, query) in zip(names, _learning_rows(state, transductive)):
        width = max(1, min(dim, part.shape[1], int(np.sum(~excluded)) - 1))

        def learn(start: int, stop: int) -> list[np.ndarray]:
            found = learn_whitening(
                rows,
                dim,
                exponent=exponent,
                shrinkage=shrinkage,
                excluded=excluded,
                samples=samples,
                seed=seed,
            )
            matrix = np.zeros((len(found.mean), width))  # columns past the rank stay zero
            matrix[:, : found.matrix.shape[1]] = found.matrix
            return [found.mean, matrix]

        learnt = derived(
            state.folder,
            "whitening",
            {"of": name},
            part.shape[1],
            {"mean": (0, "float64"), "matrix": (width, "float64")},
            learn,
            block_rows=part.shape[1],
        )
        projection = Projection(np.asarray(learnt["mean"]), np.asarray(learnt["matrix"]))
        gallery.append(
            derived(
                state.folder,
                "whitened",
                {"of": name},
                len(part),
                {"rows": (width, "float32")},
                lambda start, stop: [projected(part[start:stop], projection)],
                progress=state.progress,
            )["rows"]
        )
        queries.append(projected(query, projection))
    return state.changed(queries=tuple(queries), gallery=tuple(gallery), identity=names, unit=True)


def _learning_rows(state: State, transductive: bool):
    """Yield (rows to learn from, which of them not, gallery rows, queries) for each component."""
    for part, query in zip(state.gallery, state.queries):
        if transductive:
            yield RowStack([part, query]), np.concatenate([state.excluded, ~query.any(axis=1)]), part, query
        else:
            yield part, state.excluded, part, query


def _seen_queries(state: State, transductive: bool) -> list[str]:
    return [content_digest(part) for part in state.queries] if transductive else []


def augment(state: State, *, neighbours: int, kind: str = "average", alpha: float = 3.0) -> State:
    """Database-side augmentation: every gallery image joined with its nearest others, by the present fused
    score.
    """
    if neighbours == 0:
        return state
    rows, scores = neighbour_graph(
        state.gallery,
        state.weights,
        neighbours,
        excluded=state.excluded,
        folder=state.folder,
        identity=state.identity,
        norm_bounds=state.norm_bounds,
        progress=state.progress,
    )
    names = state.identity_after(
        "augment",
        neighbours=neighbours,
        kind=kind,
        alpha=alpha,
        together=state.identity,
        weights=state.weights.tolist(),
    )
    gallery = [
        derived(
            state.folder,
            "augmented",
            {"of": name},
            len(part),
            {"rows": (part.shape[1], "float32")},
            lambda start, stop, part=part: augmented_rows(
                [part], start, stop, rows, scores, kind=kind, neighbours=neighbours, alpha=alpha
            ),
            progress=state.progress,
        )["rows"]
        for name, part in zip(names, state.gallery)
    ]
    return state.changed(gallery=tuple(gallery), identity=names, unit=True)


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
    plan = []
    for number, stage in enumerate(stages, start=1):
        if not isinstance(stage, Mapping) or set(stage) != {"weights", "keep"}:
            raise ConfigurationError(f"stage {number} of the cascade is {stage!r}: expected weights and keep")
        plan.append((spread(stage["weights"], state.groups), max(int(stage["keep"]), state.k)))
    ranks, scores = cascades.cascade(
        state.queries,
        state.gallery,
        plan,
        excluded=state.excluded,
        norm_bounds=state.norm_bounds,
        progress=state.progress,
    )
    return replace(state, ranks=ranks, scores=scores)


def reciprocal(
    state: State, *, k1: int = 20, k2: int = 6, share: float = 0.3, transductive: bool = False
) -> State:
    """k-reciprocal re-ranking, see `features.ranking.reciprocal`; share: of the original distance."""
    ranks, scores = reciprocal_lists(
        state.queries,
        state.gallery,
        state.weights,
        state.k,
        k1=k1,
        k2=k2,
        share=share,
        excluded=state.excluded,
        transductive=transductive,
        folder=state.folder,
        identity=state.identity,
        norm_bounds=state.norm_bounds,
        progress=state.progress,
    )
    return replace(state, ranks=ranks, scores=scores)


def diffuse(
    state: State,
    *,
    neighbours: int = 50,
    query_neighbours: int = 10,
    alpha: float = 0.99,
    gamma: float = 3.0,
    iterations: int = 50,
) -> State:
    """Diffusion on the gallery's neighbour graph, see `features.ranking.diffusion`."""
    ranks, scores = diffusion_lists(
        state.queries,
        state.gallery,
        state.weights,
        state.k,
        neighbours=neighbours,
        query_neighbours=query_neighbours,
        alpha=alpha,
        gamma=gamma,
        iterations=iterations,
        excluded=state.excluded,
        folder=state.folder,
        identity=state.identity,
        norm_bounds=state.norm_bounds,
        progress=state.progress,
    )
    return replace(state, ranks=ranks, scores=scores)


STEPS: dict[str, Callable[..., State]] = {
    "concatenate": concatenate,
    "measure": measure,
    "znormalise": znormalise,
    "whiten": whiten,
    "augment": augment,
    "expand": expand_queries,
    "cascade": cascade,
    "reciprocal": reciprocal,
    "diffuse": diffuse,
}
FINAL = ("cascade", "reciprocal", "diffuse")

# values worth trying, for a study over a recipe's steps; the order of steps is the recipe's
TUNABLE: dict[str, dict[str, tuple]] = {
    "whiten": {"dim": (64, 128, 256, 512), "exponent": (0.0, 0.5, 1.0), "shrinkage": (0.0, 0.1, 0.3)},
    "augment": {"neighbours": (0, 1, 2, 3, 5), "kind": ("average", "weighted", "alpha"), "alpha": (1.0, 3.0)},
    "expand": {
        "neighbours": (0, 1, 2, 3, 5, 10),
        "kind": ("average", "weighted", "alpha"),
        "alpha": (1.0, 3.0),
    },
    "reciprocal": {"k1": (5, 10, 20), "k2": (1, 3, 6), "share": (0.1, 0.3, 0.5, 0.8)},
    "diffuse": {
        "neighbours": (5, 10, 50),
        "query_neighbours": (3, 7, 10),
        "alpha": (0.5, 0.9, 0.99),
        "gamma": (1.0, 3.0),
    },
}
