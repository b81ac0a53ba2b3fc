"""A recipe's steps: plain JSON objects {"step": name, ...arguments}, applied in order to descriptors.

Steps that change descriptors come first; a last one may make the lists; without one an exact search does. What a step
learns, it learns from the gallery alone, unless `"transductive": true` is written; photo_whiten learns from simulated
photos of gallery images too, and where it says `"pairs"` from the public labelled queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec
import numpy as np

from competition.errors import ConfigurationError, nearest
from features.ranking.arguments import argument_fault
from features.ranking.state import State
from features.ranking.steps.approximate import Approximate
from features.ranking.steps.augment import Augment
from features.ranking.steps.cascade import Cascade
from features.ranking.steps.concatenate import Concatenate
from features.ranking.steps.diffuse import Diffuse
from features.ranking.steps.expand import Expand
from features.ranking.steps.measure import Measure
from features.ranking.steps.photo_whiten import PhotoWhiten
from features.ranking.steps.reciprocal import Reciprocal
from features.ranking.steps.step import Step
from features.ranking.steps.whiten import Whiten
from features.ranking.steps.znormalise import ZNormalise
from features.search.faiss_indexes import check_parameters

StepEntry = Mapping[str, Any]  # a step as a recipe has it

STEPS: dict[str, type[Step]] = {
    "concatenate": Concatenate,
    "measure": Measure,
    "znormalise": ZNormalise,
    "whiten": Whiten,
    "photo_whiten": PhotoWhiten,
    "augment": Augment,
    "expand": Expand,
    "cascade": Cascade,
    "reciprocal": Reciprocal,
    "diffuse": Diffuse,
    "approximate": Approximate,
}
TUNABLE = {name: kind.tunable for name, kind in STEPS.items() if kind.tunable}


def step_of(values: StepEntry) -> Step:
    """Return a checked step with its arguments."""
    return STEPS[values["step"]](**{key: value for key, value in values.items() if key != "step"})


def check_steps(steps: object, where: str = "") -> None:
    """Raise ConfigurationError, one line, unless every step is known, has what it needs and can follow the others.

    where: the file that holds them, and the key there, for the message.
    """
    where = f"{where}: " if where else ""
    if not isinstance(steps, list | tuple):
        raise ConfigurationError(
            f'{where}steps of the recipe: {steps!r:.60}: expected a list like [{{"step": "expand", …}}]'
        )
    before: list[tuple[str, Step]] = []
    for number, values in enumerate(steps, start=1):
        name = values.get("step") if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name not in STEPS:
            raise ConfigurationError(
                f"{where}step {number} of the recipe is {name!r:.60}: {nearest(str(name), STEPS)}"
            )
        arguments = {key: value for key, value in values.items() if key != "step"}
        fault = argument_fault(STEPS[name], arguments)
        if fault is None:
            step = STEPS[name](**arguments)
            fault = step.fault() or _misplaced(step, before)
            before.append((name, step))
        if fault is not None:
            raise ConfigurationError(f"{where}step {number} of the recipe, {name}, {fault}")


def _misplaced(step: Step, before: Sequence[tuple[str, Step]]) -> str | None:
    """Say why a step cannot come after others; None: it can."""
    if before and before[-1][1].makes_lists:
        return f"comes after {before[-1][0]}, which makes the lists: put it before"
    parted = [each.name for _, each in before if isinstance(each, Measure) and each.parts_photos]
    if step.needs_photos and parted:
        return f"comes after measure {parted[0]}, which makes other vectors of photos than of gallery images: put it before"
    return None


def default_of(name: str, argument: str) -> Any:
    """Return the value an argument of step `name` has unless it is written; msgspec.NODEFAULT: it must be written."""
    return {field.name: field.default for field in msgspec.structs.fields(STEPS[name])}[argument]


def apply_steps(state: State, steps: Iterable[StepEntry]) -> State:
    """Return the state after checked steps."""
    for values in steps:
        state = step_of(values)(state)
    return state


def split_steps(steps: Sequence[StepEntry]) -> tuple[tuple[StepEntry, ...], tuple[StepEntry, ...]]:
    """Return (the first steps, whose descriptors no weight changes, the others)."""
    own = tuple(takewhile(lambda values: step_of(values).independent, steps))
    return own, tuple(steps[len(own) :])


def with_index(steps: Sequence[StepEntry], kind: str, recipe: str) -> tuple[StepEntry, ...]:
    """Return a recipe's steps with an index of `kind` in place of the exact search that ends them.

    ConfigurationError: an unknown kind, or a last step that makes the lists otherwise.
    """
    check_parameters(kind, {})
    last, searching = (steps[-1] if steps else {}), {"step": "approximate", "index": kind}
    if last.get("step") == "approximate":
        return tuple(steps) if last["index"] == kind else (*steps[:-1], searching)
    if last and STEPS[last["step"]].makes_lists:
        raise ConfigurationError(
            f"--index {kind}: recipe {recipe} ends in {last['step']}, which makes the lists itself: there is no plain "
            "search that an index could replace"
        )
    return (*steps, searching)


def used_components(
    weights: Sequence[float] | np.ndarray, groups: Sequence[int] | None, steps: Sequence[StepEntry]
) -> list[int]:
    """Return the components that count; the others need not be opened.

    They count by their weight, or by weights of a checked step's own; all of them where a step joins them.
    """
    made = [step_of(values) for values in steps]
    if any(step.joins for step in made):
        return list(range(len(weights)))
    groups = groups or range(len(weights))
    entries = [entry for step in made for entry in step.own_weights]
    return [
        place
        for place, weight in enumerate(weights)
        if weight != 0 or any(groups[place] < len(entry) and entry[groups[place]] for entry in entries)
    ]
