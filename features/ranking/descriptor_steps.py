"""Steps of a recipe that change descriptors: each takes a State and returns another.

What a step learns, it learns from the gallery alone, unless `transductive` is true. Those that `independent`
names treat every component alone, whatever its weight: a study makes them once, not once a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from features.ranking.augmentation import augmented_rows
from features.ranking.derived import content_digest, derived, digest_of
from features.ranking.measures import concatenated, measured
from features.ranking.projection import Projection, learn_whitening, learn_znormalisation, projected
from features.ranking.state import State, spread
from features.ranking.views import RowStack, RowView

PER_COMPONENT = ("cosine", "correlation")  # measures of unit rows that know nothing of the weights


def independent(step: Mapping[str, object]) -> bool:
    """Say whether a step gives every component the same unit rows whatever the recipe's weights."""
    if step["step"] == "measure":
        return step["name"] in PER_COMPONENT
    if step["step"] == "augment":
        return step.get("weights") is not None
    return step["step"] in ("znormalise", "whiten")


def centres(step: Mapping[str, object]) -> bool:
    """Say whether rows sum to about zero after the step, so that eq. 3's sums S order nothing (FACTS.md)."""
    return step["step"] in ("znormalise", "whiten")


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
        unit=state.unit and name in (*PER_COMPONENT, "correlation_concatenated"),
    )


def znormalise(state: State, *, transductive: bool = False) -> State:
    """(x - mean) / standard deviation per dimension, then L2, for each component."""
    gallery, queries = [], []
    for rows, excluded, part, query in _learning_rows(state, transductive):
        learnt = learn_znormalisation(rows, excluded)
        gallery.append(
            RowView(
                [part], lambda blocks, learnt=learnt: projected(blocks[0], learnt), part.shape[1], np.float32
            )
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


def augment(
    state: State,
    *,
    neighbours: int,
    kind: str = "average",
    alpha: float = 3.0,
    weights: Sequence[float] | None = None,
) -> State:
    """Database-side augmentation: every gallery image joined with its nearest others.

    weights: of the score by which they are nearest, one number for each entry of the recipe's components; None: the
    recipe's own weights.
    """
    if neighbours == 0:
        return state
    nearest_by = state.weights if weights is None else spread(weights, state.groups)
    rows, scores = state.graph(neighbours, nearest_by)
    names = state.identity_after(
        "augment",
        neighbours=neighbours,
        kind=kind,
        alpha=alpha,
        together=[name for name, weight in zip(state.identity, nearest_by) if weight],
        weights=[float(weight) for weight in nearest_by if weight],
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


def written_out(state: State) -> State:
    """Return the state with galleries that are computed as they are read (RowView) kept as files, same values."""
    gallery = [
        derived(
            state.folder,
            "rows",
            {"of": name},
            len(part),
            {"rows": (part.shape[1], part.dtype.name)},
            lambda start, stop, part=part: [part[start:stop]],
            progress=state.progress,
        )["rows"]
        if isinstance(part, RowView)
        else part
        for name, part in zip(state.identity, state.gallery)
    ]
    return state.with_gallery(tuple(gallery))
