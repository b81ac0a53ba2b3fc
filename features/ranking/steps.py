"""A recipe's steps: plain JSON objects {"step": name, ...keyword arguments}, applied in order to descriptors.

Steps that change descriptors (concatenate, znormalise, whiten, photo_whiten, augment, expand, measure) come first; a
last step (approximate, cascade, reciprocal, diffuse) may make the lists; without one an exact search does. What a step
learns, it learns from the gallery alone, unless `"transductive": true` is written; photo_whiten learns from simulated
photos of gallery images too, and where it says `"pairs"` from the public labelled queries.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from competition.errors import ConfigurationError, nearest
from features.dumps.derived import content_digest
from features.ranking.descriptor_steps import (
    PER_COMPONENT,
    augment,
    concatenate,
    independent,
    measure,
    whiten,
    znormalise,
)
from features.ranking.expansion import WEIGHTINGS
from features.ranking.indexing import PARAMETERS, check_parameters
from features.ranking.list_steps import approximate, cascade, expand_queries
from features.ranking.measures import MEASURES
from features.ranking.photo_whitening import photo_whiten
from features.ranking.rerankers import diffuse, reciprocal
from features.ranking.state import Photos, State

Step = Mapping[str, Any]

STEPS: dict[str, Callable[..., State]] = {
    "concatenate": concatenate,
    "measure": measure,
    "znormalise": znormalise,
    "whiten": whiten,
    "photo_whiten": photo_whiten,
    "augment": augment,
    "expand": expand_queries,
    "cascade": cascade,
    "reciprocal": reciprocal,
    "diffuse": diffuse,
    "approximate": approximate,
}
FINAL = ("cascade", "reciprocal", "diffuse", "approximate")

# values worth trying, for a study over a recipe's steps; the order of steps is the recipe's
TUNABLE: dict[str, dict[str, tuple]] = {
    "whiten": {"dim": (64, 128, 256, 512), "exponent": (0.0, 0.5, 1.0), "shrinkage": (0.0, 0.1, 0.3)},
    "photo_whiten": {
        "dim": (128, 256, 512),
        "shrinkage": (0.05, 0.1, 0.2, 0.3),
        "exponent": (0.0, 0.5),
        "joint": (False, True),
    },
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

LARGEST_WHOLE = 2**31 - 1
LISTED = 10_000  # neighbours or images a list may hold: each query's are in memory
Check = tuple[Callable[[Any], bool], str]  # what a value must be, and the words for it


def _whole(low: int, high: int = LARGEST_WHOLE) -> Check:
    words = f"of at least {low}" if high == LARGEST_WHOLE else f"from {low} to {high}"
    return lambda value: type(value) is int and low <= value <= high, f"a whole number {words}"


def _number(low: float, high: float) -> Check:
    return (
        lambda value: type(value) in (int, float) and low <= value <= high,
        f"a number from {low} to {high}",
    )


def are_weights(value: Any) -> bool:
    """Say whether a value is a list of numbers >= 0 of which one is above 0."""
    numbers = isinstance(value, list | tuple) and all(_number(0, 1e9)[0](item) for item in value)
    return numbers and any(value)


def are_stages(value: Any) -> bool:
    """Say whether a value is a list of a cascade's stages, none of which keeps more than the one before."""
    if not isinstance(value, list | tuple) or not value:
        return False
    for stage in value:
        if not isinstance(stage, Mapping) or set(stage) != {"weights", "keep"}:
            return False
        if not are_weights(stage["weights"]) or not _whole(1)[0](stage["keep"]):
            return False
    kept = [stage["keep"] for stage in value]
    return kept == sorted(kept, reverse=True)


_TRUTH: Check = (lambda value: isinstance(value, bool), "true or false")
# what an argument must be, by its name; where a step asks otherwise, by "step.name"
CHECKS: dict[str, Check] = {
    "dim": _whole(1),
    "exponent": _number(0, 4),
    "shrinkage": _number(0, 1),
    "samples": _whole(2),
    "seed": _whole(0),
    "transductive": _TRUTH,
    "joint": _TRUTH,
    "pairs": _number(0, 1),
    "unlabelled": _number(0, 1),
    "learnt": (lambda value: isinstance(value, str), "a text"),
    "neighbours": _whole(0, LISTED),
    "alpha": _number(0, 100),
    "rounds": _whole(1, 100),
    "weights": (lambda value: value is None or are_weights(value), "a list of numbers >= 0, not all 0"),
    "stages": (
        are_stages,
        'a list of stages like {"weights": [1, 2], "keep": 100}, with weights >= 0 that are not all 0 and none '
        "that keeps more than the one before",
    ),
    "k1": _whole(1, 1000),
    "k2": _whole(1, 1000),
    "share": _number(0, 1),
    "diffuse.neighbours": _whole(1, LISTED),
    "query_neighbours": _whole(1, LISTED),
    "diffuse.alpha": (
        lambda value: type(value) in (int, float) and 0 <= value < 1,
        "a number >= 0 and below 1",
    ),
    "gamma": _number(0, 100),
    "iterations": _whole(1),
    "candidates": _whole(1),
    "checked": _whole(1),
}
WORDS = {
    "kind": ("weighting", WEIGHTINGS),
    "name": ("measure", MEASURES),
    "index": ("kind of index", PARAMETERS),
}


def rank(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[Step],
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64 after a recipe's steps, best first, -1 and -inf for
    missing.

    See `start` for the arguments. Raises ConfigurationError for a step that is unknown, misplaced or has a wrong
    argument.
    """
    check_steps(steps)
    return apply_steps(start(queries, gallery, weights, k, **options), steps).lists(k)


def start(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
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
    photos: Photos | None = None,
    simulated: int = 0,
) -> State:
    """Return what the first step gets.

    queries, gallery: L arrays (Q, D_l) and (n, D_l); weights (L,); k: length of the lists; groups (L,): for
    steps with weights of their own, the entry of the recipe each component stems from (default: each its own);
    folder: where graphs and changed galleries are kept (None: in memory); identity (L,): what tells the gallery's
    components apart in their names (default: a digest of all bytes); unit: rows are L2-normalised for certain, as
    dumps are; photos: what photo_whiten learns from, see `features.ranking.photos`; simulated: so many of the last
    queries are simulated photos.
    """
    count = len(gallery)
    if identity is None:
        identity = [content_digest(part) for part in gallery] if folder is not None else [""] * count
    return State(
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
        photos,
        simulated=simulated,
    )


def apply_steps(state: State, steps: Iterable[Step]) -> State:
    """Return the state after checked steps."""
    for step in steps:
        arguments = {key: value for key, value in step.items() if key != "step"}
        state = STEPS[step["step"]](state, **arguments)
    return state


def split_steps(steps: Sequence[Step]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Return (the first steps, whose descriptors no weight changes, the others)."""
    own = tuple(takewhile(independent, steps))
    return own, tuple(steps[len(own) :])


def with_index(steps: Sequence[Step], kind: str, recipe: str) -> tuple[Step, ...]:
    """Return a recipe's steps with an index of `kind` in place of the exact search that ends them.

    ConfigurationError: an unknown kind, or a last step that makes the lists otherwise.
    """
    check_parameters(kind, {})
    last = steps[-1] if steps else {}
    if last.get("step") == "approximate":
        return (
            tuple(steps) if last["index"] == kind else (*steps[:-1], {"step": "approximate", "index": kind})
        )
    if last.get("step") in FINAL:
        raise ConfigurationError(
            f"--index {kind}: recipe {recipe} ends in {last['step']}, which makes the lists itself: there is no plain "
            "search that an index could replace"
        )
    return (*steps, {"step": "approximate", "index": kind})


def used_components(
    weights: Sequence[float] | np.ndarray, groups: Sequence[int] | None, steps: Sequence[Step]
) -> list[int]:
    """Return the components that count: by their weight, or by those of a checked step (augment's, a cascade's
    stages'); all of them where a step joins them. The others need not be opened.
    """
    if any(step.get("joint") for step in steps):
        return list(range(len(weights)))
    entries = [step.get("weights") or () for step in steps if step["step"] == "augment"]
    entries += [stage["weights"] for step in steps if step["step"] == "cascade" for stage in step["stages"]]
    groups = list(groups) if groups else list(range(len(weights)))
    return [
        number
        for number, weight in enumerate(weights)
        if weight != 0 or any(groups[number] < len(entry) and entry[groups[number]] for entry in entries)
    ]


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of step `name`."""
    found = inspect.signature(STEPS[name]).parameters.items()
    return {key: parameter for key, parameter in found if parameter.kind is parameter.KEYWORD_ONLY}


def check_steps(steps: Sequence[Step]) -> None:
    """Raise ConfigurationError unless every step is known, has the arguments it needs and stands where it can."""
    if not isinstance(steps, list | tuple):
        raise ConfigurationError(
            f'steps of the recipe: {steps!r}: expected a list like [{{"step": "expand", …}}]'
        )
    last, measured = None, "cosine"
    for number, step in enumerate(steps, start=1):
        name = step.get("step") if isinstance(step, Mapping) else None
        if not isinstance(name, str) or name not in STEPS:
            raise ConfigurationError(f"step {number} of the recipe is {name!r}: {nearest(str(name), STEPS)}")
        parameters, where = parameters_of(name), f"step {number} of the recipe, {name},"
        for key, value in step.items():
            if key != "step":
                _check_argument(f"{where} has", name, key, value, parameters)
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in step:
                raise ConfigurationError(f"{where} lacks {key!r}")
        if last in FINAL:
            raise ConfigurationError(f"{where} comes after {last}, which makes the lists: put it before")
        if name == "photo_whiten" and measured not in PER_COMPONENT:
            raise ConfigurationError(
                f"{where} comes after measure {measured}, which makes other vectors of photos than of gallery images: "
                "put it before"
            )
        measured = step["name"] if name == "measure" else measured
        if name == "approximate":
            named = {parameter for kind in PARAMETERS.values() for parameter in kind}
            check_parameters(step["index"], {key: value for key, value in step.items() if key in named})
        last = name


def _check_argument(where: str, name: str, key: str, value: Any, parameters: Mapping) -> None:
    if key not in parameters:
        raise ConfigurationError(f"{where} no {key!r}: {nearest(key, parameters)}")
    noun, known = WORDS.get(key, ("", None))
    if known is not None and (not isinstance(value, str) or value not in known):
        raise ConfigurationError(f"{where} the unknown {noun} {value!r}: {nearest(str(value), known)}")
    fits, words = CHECKS.get(f"{name}.{key}", CHECKS.get(key, (lambda value: True, "")))
    if not fits(value):
        raise ConfigurationError(f"{where} {key} = {value!r}: expected {words}")
