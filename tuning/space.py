"""What a study chooses among, and what a choice means: components, chains of weights, steps.

Three ways in: the configuration's own choices; those fixed to a study's recipe; or, for any other recipe, its
own components with its steps' values (the recipe's own first).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from competition.configuration import Configuration
from competition.messages import log
from features.components import (
    Choice,
    Component,
    backbone_of,
    check_choice,
    choices,
    components_of,
    depth_order,
    layers_under,
)
from features.ranking.state import spread
from features.recipes.recipe import Recipe
from tuning.labelled import NOT_SIMULATED
from tuning.region import chain_members
from tuning.step_choices import StepChoices, StepEntry, concrete_steps, configured_steps, recipe_steps

# what a step may learn from that judges a study
UNTAUGHT = {
    "pairs": "what labelled pairs teach (pairs = 0)",
    "all_photos": "what photos that judge would teach (all_photos = false)",
}


@dataclass(frozen=True)
class Space:
    """The discrete parameters of a study, first values first, and what a choice of them means.

    components_of(choice): in the order every sum uses; steps: those of the study; recipe: the one under study
    as it is (None: the configuration's choices), its components in this order and its weights those by which
    an augmentation's neighbours are near (otherwise equal ones).
    """

    choice_lists: dict[str, tuple]
    components_of: Callable[[Choice], tuple[Component, ...]]
    steps: tuple[StepChoices, ...] = ()
    recipe: Recipe | None = None

    @property
    def default(self) -> dict[str, Any]:
        """The first value of every choice."""
        return {name: values[0] for name, values in self.choice_lists.items()}

    def single_changes(self) -> list[dict[str, Any]]:
        """Return the first choices, and those with one other value of a step."""
        return [self.default] + [
            {**self.default, name: value}
            for step in self.steps
            for name, values in step.choice_lists.items()
            for value in values[1:]
        ]

    def steps_of(self, choice: Choice) -> tuple[StepEntry, ...]:
        """Return the steps of one choice."""
        weights = (1.0,) * self.n_vertices(choice) if self.recipe is None else self.recipe.weights
        return concrete_steps(self.steps, choice, weights)

    def n_vertices(self, choice: Choice) -> int:
        """Return how many vertices the region has under a choice: one a component."""
        return len(self.components_of(choice))

    def chains_alone(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each chain that choices make, under every combination of them but the first: (choice, deepest vertex)."""

        def makers(component: Component) -> tuple[str, ...]:
            prefix = component.chain if component.pooling is None else component.backbone
            keys = ("count", "dim", "exponent") if component.pooling is None else ("pooling",)
            return tuple(f"{prefix}.{key}" for key in keys if f"{prefix}.{key}" in self.choice_lists)

        for names in dict.fromkeys(map(makers, self.components_of(self.default))):
            for values in list(product(*(self.choice_lists[name] for name in names)))[1:]:
                choice = {**self.default, **dict(zip(names, values))}
                components = self.components_of(choice)
                yield choice, max(v for v, part in enumerate(components) if makers(part) == names)


def space_of(configuration: Configuration, recipe: Recipe | None = None) -> Space:
    """Return the space of a study: of the configuration, or of `recipe`.

    A recipe that a study of the configuration wrote fixes the discrete choices to its own; any other is
    studied over its own components, weights and steps, but for what labels teach: its queries would judge that. Steps
    that photos cannot judge are left out of a study that no label judges.
    """
    if recipe is not None and (not recipe.choice or "studied" in recipe.provenance):
        judged = _untaught(_judged(configuration, recipe.steps), "pairs")
        return _space_of_recipe(configuration, replace(recipe, steps=tuple(map(dict, judged))))
    known = choices(configuration)
    counts = {len(configuration.externals)}
    for backbone in configuration.backbones:
        lengths = {len(layers_under(backbone, pooling)) + len(backbone.parts) for pooling in backbone.pooling}
        counts = {count + length for count in counts for length in lengths}
    tables = _judged(configuration, configuration.tuning.steps)
    for count in sorted(counts):  # the weights a step names have to fit every choice
        steps = configured_steps(tables, configuration.path, count)
    lists = {**known, **_choice_lists(steps)}
    if recipe is not None:
        check_choice(configuration, recipe.choice, lists)
        lists = {name: (recipe.choice[name],) for name in lists}

    def made(choice: Choice) -> tuple[Component, ...]:
        return components_of(configuration, {name: choice[name] for name in known})

    return Space(lists, made, steps)


def without_joint(space: Space) -> Space:
    """Return the space of a recipe without joining all components before whitening, where that is a choice of its."""

    def narrowed(step: StepChoices) -> StepChoices:
        dear = step.values.get("joint", ())[:1] == (False,)
        return replace(step, values={**step.values, "joint": (False,)}) if dear else step

    steps = tuple(map(narrowed, space.steps))
    return space if steps == space.steps else replace(space, choice_lists=_choice_lists(steps), steps=steps)


def _choice_lists(steps: Sequence[StepChoices]) -> dict[str, tuple]:
    return {name: values for step in steps for name, values in step.choice_lists.items()}


def _judged(configuration: Configuration, steps: Sequence[Mapping]) -> list[Mapping]:
    """The steps that what judges the study can judge; the others are named on stderr."""
    left_out = [] if configuration.objective != "simulated" else NOT_SIMULATED
    names = sorted({str(step["step"]) for step in steps} & set(left_out))
    if names:
        log.info(
            f"top7: left out of the study: {', '.join(names)}: simulated photos cannot judge them, labels can"
        )
    judged = [step for step in steps if step["step"] not in left_out]
    return judged if configuration.objective == "labels" else _untaught(judged, "all_photos")


def _untaught(steps: Sequence[Mapping], key: str) -> list[Mapping]:
    """The steps without what judges the study to learn from: real pairs or all photos; says so where there was any."""
    if any(step.get(key) for step in steps):
        log.info(f"top7: the study leaves out {UNTAUGHT[key]}: its queries would judge it")
    return [{name: value for name, value in step.items() if name != key} for step in steps]


def _space_of_recipe(configuration: Configuration, recipe: Recipe) -> Space:
    order = shallow_to_deep(configuration, recipe.components)
    groups = recipe.groups or tuple(range(len(recipe.components)))

    def each(entries) -> list[float]:
        """Weights by entry of the recipe's components as weights by component, in the space's order."""
        return spread(entries, groups)[order].tolist()

    def arranged_step(step: Mapping[str, Any]) -> dict[str, Any]:
        own: dict[str, list] = {}
        if step.get("weights") is not None:
            own["weights"] = each(step["weights"])
        if "stages" in step:
            own["stages"] = [arranged_step(stage) for stage in step["stages"]]
        return {**step, **own}

    steps = tuple(arranged_step(step) for step in recipe.steps)
    components, weights = tuple(recipe.components[n] for n in order), tuple(recipe.weights[n] for n in order)
    arranged = replace(recipe, components=components, weights=weights, groups=(), steps=steps)
    chosen = recipe_steps(steps, len(order))
    return Space(_choice_lists(chosen), lambda choice: components, chosen, arranged)


def shallow_to_deep(configuration: Configuration, components: tuple[Component, ...]) -> list[int]:
    """Return the order that puts the layers of each chain shallow to deep, in the places the chain has, for eq. 3."""
    order = np.arange(len(components))
    for places in chain_members([component.chain for component in components]):
        if len(places) > 1:
            depth = depth_order(backbone_of(configuration, components[places[0]]).layers)
            order[places] = sorted(places, key=lambda number: depth.index(components[number].layer))
    return order.tolist()
