"""Steps of a recipe that change descriptors: each takes a State and returns another.

What a step learns, it learns from the gallery alone, unless `transductive` is true. Those that `independent`
names treat every component alone, whatever its weight: a study makes them once, not once a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from features.dumps.derived import content_digest, derived, digest_of
from features.ranking.augmentation import augmented_rows
from features.ranking.measures import concatenated, measured
from features.ranking.projection import (
    PrincipalAxes,
    Projection,
    learn_whitening,
    learn_znormalisation,
    principal_axes,
    projected,
)
from features.ranking.state import State, spread
from features.ranking.views import RowStack, RowView

PER_COMPONENT = ("cosine", "correlation")  # measures of unit rows that know nothing of the weights


def independent(step: Mapping[str, object]) -> bool:
    """Say whether a step gives every component the same unit rows whatever the recipe's weights."""
    if step["step"] == "measure":
        return step["name"] in PER_COMPONENT
    if step["step"] == "augment":
        return step.get("weights") is not None
    return step["step"] in ("znormalise", "whiten", "photo_whiten")


def centres(step: Mapping[str, object]) -> bool:
    """Say whether rows sum to about zero after the step, so that eq. 3's sums S order nothing."""
    return step["step"] in ("znormalise", "whiten", "photo_whiten")


def joins(step: Mapping[str, object]) -> bool:
    """Say whether a step makes one component of all, whatever their weights."""
    return step["step"] == "photo_whiten" and bool(step.get("joint"))


def concatenate(state: State) -> State:
    """One component [√w_1 f_1, …, √w_L f_L], of the same fused cosine."""
    identity = f"concatenation-{digest_of([state.identity, state.weights.tolist()])}"
    if len(state.gallery) == 1:
        return state
    return state.changed(
        **state.asked(lambda parts: [concatenated(parts, state.weights)]),
        gallery=(concatenated(state.gallery, state.weights),),
        weights=np.ones(1),
        groups=(0,),
        identity=(identity,),
        unit=state.unit and abs(state.weights.sum() - 1) < 1e-6,
    )


def measure(state: State, *, name: str) -> State:
    """Another measure of the paper's Table 1, see `features.ranking.measures`."""
    norms = {"query_norms": state.query_norms, "gallery_norms": state.gallery_norms}
    _, gallery, weights = measured(name, state.queries, state.gallery, state.weights, **norms)
    joined = len(gallery) != len(state.gallery)
    identity = (
        (digest_of([name, state.identity, state.weights.tolist()]),) if joined else state.identity_after(name)
    )
    if name not in PER_COMPONENT:
        state = replace(state, photos=None)  # `check_steps` lets nothing learn from them afterwards
    return state.changed(
        **state.asked(lambda parts: measured(name, parts, state.gallery, state.weights, **norms)[0]),
        gallery=tuple(gallery),
        weights=weights,
        groups=(0,) if joined else state.groups,
        identity=identity,
        unit=state.unit and name in (*PER_COMPONENT, "correlation_concatenated"),
    )


def znormalise(state: State, *, transductive: bool = False) -> State:
    """(x - mean) / standard deviation per dimension, then L2, for each component."""
    learnt = [learn_znormalisation(rows, excluded) for rows, excluded in _learning_rows(state, transductive)]
    gallery = [
        RowView([part], lambda blocks, found=found: projected(blocks[0], found), part.shape[1], np.float32)
        for part, found in zip(state.gallery, learnt)
    ]
    seen = _seen_queries(state, transductive)
    return state.changed(
        **state.asked(lambda parts: map(projected, parts, learnt)),
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
    learning = list(_learning_rows(state, transductive))

    shared = state.identity_after("axes", samples=samples, seed=seed, seen=arguments["seen"])

    def learn(number: int) -> Projection:
        rows, excluded = learning[number]
        learnt = dict(excluded=excluded, samples=samples, seed=seed)
        if not state.many:
            return learn_whitening(rows, dim, exponent=exponent, shrinkage=shrinkage, **learnt)
        found = kept_axes(state, shared[number], rows, lambda: ({}, principal_axes(rows, **learnt)), **learnt)
        return found[1].whitening(dim, exponent, shrinkage)

    return projected_by(state, names, dim, [int(np.sum(~excluded)) for _, excluded in learning], learn)


def kept_axes(
    state: State,
    name: str,
    rows: np.ndarray,
    learn: Callable[[], tuple[dict[str, np.ndarray], PrincipalAxes]],
    *,
    more: Sequence[str] = (),
    excluded: np.ndarray,
    samples: int,
    **_: object,
) -> tuple[dict[str, np.ndarray], PrincipalAxes]:
    """Return what `learn` does, kept under `name`: matrices (D, D) by the names `more`, and principal axes of `rows`."""
    width, count = rows.shape[1], min(samples, int(np.sum(~excluded)))
    rank = max(1, min(width, count - 1))

    def learnt_rows(start: int, stop: int) -> list[np.ndarray]:
        matrices, found = learn()
        axes, eigenvalues = np.zeros((width, rank)), np.zeros(width)
        axes[:, : found.axes.shape[1]], eigenvalues[: len(found.eigenvalues)] = found.axes, found.eigenvalues
        return [found.mean, eigenvalues, axes, *(matrices[key] for key in more)]

    columns = {"mean": 0, "eigenvalues": 0, "axes": rank} | dict.fromkeys(more, width)
    kinds = {key: (columns[key], "float64") for key in columns}
    kept = derived(state.folder, "axes", {"of": name}, width, kinds, learnt_rows, block_rows=width)
    positive = int(np.count_nonzero(kept["eigenvalues"]))
    eigenvalues = np.array(kept["eigenvalues"][:positive])
    axes = PrincipalAxes(np.array(kept["mean"]), kept["axes"][:, :positive], eigenvalues, count)
    return {key: kept[key] for key in more}, axes


def projected_by(
    state: State, names: Sequence[str], dim: int, readable: Sequence[int], learn: Callable[[int], Projection]
) -> State:
    """Return the state after a projection to at most `dim` dimensions for each component, learnt once and kept.

    names: of the components afterwards; readable: how many rows each is learnt from; learn(number) -> Projection.
    """
    gallery, projections = [], []
    for number, (name, part) in enumerate(zip(names, state.gallery)):
        width = max(1, min(dim, part.shape[1], readable[number] - 1))

        def learnt_rows(start: int, stop: int) -> list[np.ndarray]:
            found = learn(number)
            matrix = np.zeros((len(found.mean), width))  # columns past the rank stay zero
            matrix[:, : found.matrix.shape[1]] = found.matrix
            return [found.mean, found.of_queries.mean, matrix]

        kept = derived(
            state.rows_folder,
            "whitening",
            {"of": name},
            part.shape[1],
            {"mean": (0, "float64"), "query_mean": (0, "float64"), "matrix": (width, "float64")},
            learnt_rows,
            block_rows=part.shape[1],
        )
        projection = Projection(*(np.asarray(kept[key]) for key in ("mean", "matrix", "query_mean")))
        projections.append(projection)
        gallery.append(
            derived(
                state.rows_folder,
                "whitened",
                {"of": name},
                len(part),
                {"rows": (width, "float32")},
                lambda start, stop: [projected(part[start:stop], projection)],
                progress=state.progress,
            )["rows"]
        )
    return state.changed(
        **state.asked(
            lambda parts: [projected(part, own.of_queries) for part, own in zip(parts, projections)],
            lambda parts: map(projected, parts, projections),
        ),
        gallery=tuple(gallery),
        identity=tuple(names),
        unit=True,
    )


def _learning_rows(state: State, transductive: bool):
    """Yield (rows to learn from, which of them not) for each component."""
    for part, query in zip(state.gallery, state.queries):
        if transductive:
            yield RowStack([part, query]), np.concatenate([state.excluded, ~query.any(axis=1)])
        else:
            yield part, state.excluded


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
            state.rows_folder,
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
            state.rows_folder,
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
