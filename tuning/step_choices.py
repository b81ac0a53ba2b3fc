"""What a study may choose about steps: each argument's values, and the concrete steps of one choice.

One rule for `[tuning] steps`: a list is a choice, a single value is fixed, an argument left out keeps the step's
default. `optional = true` lets the study leave the step out; `tune = true` tries the values worth trying
(`tunable` of features/ranking/steps) of every argument not written. An argument that is a list itself (the weights of an
augmentation or of a cascade's stage) is a choice as a list of lists or words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from competition.errors import ConfigurationError
from features.components import Choice
from features.ranking.arguments import Weights, fits, whole
from features.ranking.steps import STEPS, TUNABLE, StepEntry, check_steps, default_of, step_of

Keep = Annotated[int, whole(1)]
WORDS = {"augment": ("own", "equal"), "cascade": ("own", "equal", "centroid")}  # in place of a step's weights


@dataclass(frozen=True)
class StepChoices:
    """One step of a study.

    label: its name, numbered where a study has it twice; values: those each argument may take, the stages of a cascade
    as "1.weights", "1.keep", …
    """

    name: str
    label: str
    values: Mapping[str, tuple]
    optional: bool = False

    @property
    def choice_lists(self) -> dict[str, tuple]:
        """The discrete parameters of the study this step adds, first values first."""
        used = {f"{self.label}.used": (True, False)} if self.optional else {}
        return used | {
            f"{self.label}.{key}": tuple(map(parameter_value, values))
            for key, values in self.values.items()
            if len(values) > 1
        }

    def step(self, choice: Choice) -> dict[str, Any] | None:
        """Return the step as `choice` has it; None where it is left out or joins no neighbours."""
        if not choice.get(f"{self.label}.used", True):
            return None
        found = {}
        for key, values in self.values.items():
            by_parameter = {parameter_value(value): value for value in values}
            found[key] = by_parameter[choice[f"{self.label}.{key}"]] if len(values) > 1 else values[0]
        if self.name == "cascade":
            return {"step": self.name, "stages": _stages(found)}
        if self.name in ("augment", "expand") and found.get("neighbours") == 0:
            return None
        if "kind" in STEPS[self.name].__struct_fields__ and found.get("kind", "average") != "alpha":
            found.pop("alpha", None)  # says nothing there
        return {"step": self.name, **found}


def parameter_value(value: Any) -> object:
    """Return a value as Optuna keeps it: numbers, texts and booleans as they are, anything else as JSON."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, separators=(",", ":"))


def _stages(found: Mapping[str, Any]) -> list[dict]:
    """Return a cascade's stages; one that would keep more than the stage before keeps as many."""
    numbers = range(1, len(found) // 2 + 1)
    kept = np.minimum.accumulate([found[f"{number}.keep"] for number in numbers]).tolist()
    return [{"weights": found[f"{number}.weights"], "keep": keep} for number, keep in zip(numbers, kept)]


def concrete_steps(
    steps: Sequence[StepChoices], choice: Choice, graph_weights: Sequence[float]
) -> tuple[StepEntry, ...]:
    """Return the steps of one choice.

    An augmentation without weights of its own takes `graph_weights`, one for each component, so that its neighbours
    depend on no trial's weights (not after a step that depends on them anyway; not where it says weights = "own").
    """
    found: list[StepEntry] = []
    for place in steps:
        step = place.step(choice)
        if step is None:
            continue
        if step["step"] == "augment":
            written = step.pop("weights", None)
            if written is None and all(step_of(step).independent for step in found):
                written = [float(weight) for weight in graph_weights]
            if written not in (None, "own"):
                step["weights"] = [1.0] * len(graph_weights) if written == "equal" else written
        found.append(step)
    return tuple(found)


def with_weights(
    steps: Sequence[StepEntry], weights: np.ndarray, corners: np.ndarray
) -> tuple[StepEntry, ...]:
    """Return the steps with the words of a cascade's stages as numbers.

    The words: own (the trial's `weights` (L,)), equal, centroid or a vertex of the region `corners` (J, L).
    """
    words = {"own": weights, "equal": np.ones(len(weights)), "centroid": corners.mean(axis=0)}
    words |= {f"vertex {number}": corner for number, corner in enumerate(corners, start=1)}

    def numbered(step: StepEntry) -> StepEntry:
        if step["step"] != "cascade":
            return step
        named = [stage["weights"] for stage in step["stages"]]
        numbers = [words[each].tolist() if isinstance(each, str) else list(each) for each in named]
        stages = [{**stage, "weights": own} for stage, own in zip(step["stages"], numbers)]
        return {**step, "stages": stages}

    return tuple(map(numbered, steps))


def configured_steps(
    tables: Sequence[Mapping[str, Any]], path: Path, n_components: int
) -> tuple[StepChoices, ...]:
    """Return the steps of `[tuning] steps`; ConfigurationError, one line, for what cannot be."""
    where = f"{path}: [tuning] steps"
    found = []
    for place, (label, table) in enumerate(zip(_labels(tables), tables), start=1):
        name = str(table["step"])
        written = {key: value for key, value in table.items() if key not in ("step", "optional", "tune")}
        if name == "cascade" and not _are_stages(written.get("stages")):
            raise ConfigurationError(
                f"{where}: step {place}, cascade, has stages = {written.get('stages')!r}: expected a list of tables "
                'like { weights = "own", keep = 100 }'
            )
        values = {key: _listed(key, value) for key, value in written.items() if key != "stages"}
        for number, stage in enumerate(written.get("stages", ()), start=1):
            values |= {f"{number}.{key}": _listed(key, value) for key, value in stage.items()}
        if table.get("tune"):
            if name not in TUNABLE:
                raise ConfigurationError(
                    f"{where}: step {place}: tune = true for {name}, which has no list of values worth trying "
                    f"(those that have: {', '.join(TUNABLE)}): write its values"
                )
            worth = TUNABLE[name].items()
            values |= {key: _own_first(name, key, tried) for key, tried in worth if key not in values}
        found.append(StepChoices(name, label, values, bool(table.get("optional", False))))
    _check(found, where, n_components)
    return tuple(found)


def recipe_steps(steps: Sequence[Mapping[str, Any]], n_components: int) -> tuple[StepChoices, ...]:
    """Return a recipe's steps with the values worth trying, the recipe's own first.

    n_components: how many vertices a cascade's stages may take their weights from; stages' weights come one a
    component.
    """
    found = []
    for label, step in zip(_labels(steps), steps):
        name = str(step["step"])
        values: dict[str, tuple] = {k: (value,) for k, value in step.items() if k not in ("step", "stages")}
        for key, worth in TUNABLE.get(name, {}).items():
            values[key] = _own_first(name, key, worth, *values.get(key, ()))
        for number, stage in enumerate(step.get("stages", ()), start=1):
            keep, last = int(stage["keep"]), number == len(step["stages"])
            vertices = [f"vertex {vertex}" for vertex in range(1, n_components + 1)]
            values[f"{number}.weights"] = (list(stage["weights"]), "own", "equal", "centroid", *vertices)
            values[f"{number}.keep"] = (keep,) if last else (keep, 2 * keep, max(1, keep // 4))
        found.append(StepChoices(name, label, values))
    _check(found, "the recipe", n_components)
    return tuple(found)


def _own_first(name: str, key: str, worth: tuple, *own: object) -> tuple:
    default = default_of(name, key)
    first = own or (() if default is msgspec.NODEFAULT else (default,))
    return (*first, *(value for value in worth if value not in first))


def _labels(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The steps' names, numbered where one appears twice."""
    names = [str(step["step"]) for step in steps]
    return [
        name if names.count(name) == 1 else f"{name}-{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]


def _listed(key: str, value: Any) -> tuple:
    """The values an argument may take; a list of numbers for `weights` is one value."""
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    return tuple(value) if isinstance(value, list) and not (key == "weights" and numbers) else (value,)


def _are_stages(value: Any) -> bool:
    tables = isinstance(value, list) and all(isinstance(stage, Mapping) for stage in value)
    return tables and bool(value) and all(set(stage) == {"weights", "keep"} for stage in value)


def _check(steps: Sequence[StepChoices], where: str, n_components: int) -> None:
    """Check every value each step may take, and the order of the steps, before anything runs."""
    for number, step in enumerate(steps, start=1):
        if step.name == "approximate":
            raise ConfigurationError(
                f"{where}: approximate would build an index for the weights of every trial: leave it out, "
                "trials rank exactly, and give --index to submit, predict or bundle"
            )
        for key, values in step.values.items():
            place = f"{where}: step {number}, {step.label}.{key}"
            if not values or len(set(map(str, map(parameter_value, values)))) < len(values):
                raise ConfigurationError(f"{place} = {list(values)}: expected at least one value, each once")
            if key == "pairs" and any(values):
                raise ConfigurationError(
                    f"{place} = {list(values)}: the public queries would judge what they taught: leave it out; the recipes "
                    "top7, top7_expanded and top7_augmented learn from them, and submit may take one of these"
                )
            for value in values:
                if key.endswith("weights") and step.name in WORDS:
                    _check_weights(place, value, n_components, WORDS[step.name])
                elif key.endswith(".keep") and not fits(value, Keep):
                    raise ConfigurationError(f"{place} = {value!r}: expected a whole number of at least 1")
    every = max([len(values) for step in steps for values in step.values.values()], default=1)
    for turn in range(every):  # each value once; those of different arguments side by side
        made = []
        for step in steps:
            drawn = {key: values[min(turn, len(values) - 1)] for key, values in step.values.items()}
            drawn |= {key: [1.0] * n_components for key in drawn if key.endswith("weights")}  # checked above
            arguments = {"stages": _stages(drawn)} if step.name == "cascade" else drawn
            made.append({"step": step.name, **arguments})
        check_steps(made, where)


def _check_weights(where: str, value: Any, n_components: int, words: Sequence[str]) -> None:
    if isinstance(value, str):
        vertices = [f"vertex {n}" for n in range(1, n_components + 1)] if "centroid" in words else []
        if value in (*words, *vertices):
            return
        known = ", ".join([*words, *([f"vertex 1 to vertex {n_components}"] if vertices else [])])
        raise ConfigurationError(f"{where} = {value!r}: expected numbers, or one of {known}")
    if not fits(value, Weights) or len(value) != n_components or not any(value):
        raise ConfigurationError(
            f"{where} = {value!r}: expected {n_components} numbers >= 0, one a component, not all 0"
        )
