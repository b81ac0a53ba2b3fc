"""What a study will cost and what it can show, measured before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna

from competition.durations import duration
from tuning import study as studies
from tuning.combination import Combination
from tuning.landscape import Landscape
from tuning.samplers import make_sampler
from tuning.validation import smallest_gain

FOLDS_LIMIT = 2e13  # products of query and gallery entries, some ten minutes, that cross-validation may take
TIMED_S = 60.0  # for timing trials by their choices
SHARE_NEW = {
    "tpe": 0.05
}  # of a sampler's draws that are of choices no trial had; others draw choices blindly
MOST_KNOWN = 300  # made-up trials among which a draw is timed: what it thinks grows with their number
DRAWS = 3  # timed
DRAWN = 64  # choices whose trials' mean is taken
OWN_ENTRIES = (
    4  # of a trial in the study's storage: its start, private figure, figure, and what it is noted by
)


@dataclass(frozen=True)
class Kind:
    """A kind of trial: seconds of one, and the seconds before the first one of a combination of choices."""

    name: str
    seconds: float
    least_first_s: float
    most_first_s: float


@dataclass(frozen=True)
class TimedTrial:
    """A trial that was timed. kind: how it is evaluated; seconds of one; first_s: before the first of its choices."""

    choice: dict[str, Any]
    kind: str
    seconds: float
    first_s: float


@dataclass(frozen=True)
class Cost:
    """What is to come, in seconds: the trials that the study lacks, and cross-validation."""

    trials: int
    trials_s: float
    folds_s: float

    def sentence(self) -> str:
        """Return the cost in words."""
        folds = f", {duration(self.folds_s)} for cross-validation" if self.folds_s else ""
        return f"to come: about {duration(self.trials_s)} for {self.trials} trials{folds}"


def timed_trials(landscape: Landscape, plan: studies.TrialPlan) -> list[TimedTrial]:
    """Time one trial, at the centroid, of each kind and, for TIMED_S at most, of each choice that may cost otherwise.

    Those are the values of the steps, and what the study tries by name: they are made once, here or there.
    """
    changes, begun = landscape.space.single_changes(), time.perf_counter()
    found: list[TimedTrial] = []
    for choice in changes:
        if landscape.kind(choice) not in {each.kind for each in found}:
            found.append(_timed(landscape, choice))
    for choice in [*changes, *_named_choices(plan)]:
        if time.perf_counter() - begun > TIMED_S:
            break
        if all(choice != each.choice for each in found):
            found.append(_timed(landscape, choice))
    return found


def _named_choices(plan: studies.TrialPlan) -> list[dict[str, Any]]:
    """The distinct choices among the named points of a new study."""
    choices = [studies.point_of(point, plan.space.choice_lists)[0] for point in plan.first(plan.places)]
    return [choice for number, choice in enumerate(choices) if choice not in choices[:number]]


def _timed(landscape: Landscape, choice: dict[str, Any]) -> TimedTrial:
    combination, first_s = landscape.combination(choice), landscape.making_s(choice)
    begun = time.perf_counter()
    combination.average_precisions(combination.corners.mean(axis=0))
    return TimedTrial(choice, landscape.kind(choice), time.perf_counter() - begun, first_s)


def kinds_of(landscape: Landscape, timed: Sequence[TimedTrial]) -> list[Kind]:
    """Return the kinds of trials that were timed."""
    found = []
    for name in dict.fromkeys(each.kind for each in timed):
        own = [each for each in timed if each.kind == name]
        if landscape.combination(own[0].choice).padded is None and not name.startswith("full"):
            name = f"full gallery, for the region prunes badly ({name})"
        firsts = [each.first_s for each in own]
        found.append(Kind(name, float(np.median([each.seconds for each in own])), min(firsts), max(firsts)))
    return found


def kinds_text(kinds: Sequence[Kind]) -> str:
    """Return a line a kind."""
    return "\n".join(
        f"a trial by {kind.name}: {_short(kind.seconds)}, after {_range(kind.least_first_s, kind.most_first_s)} once for "
        "each combination of choices"
        for kind in kinds
    )


def _range(least: float, most: float) -> str:
    return _short(most) if most < 1.5 * least else f"{_short(least)} to {_short(most)}"


def cost(
    landscape: Landscape,
    plan: studies.TrialPlan,
    timed: Sequence[TimedTrial],
    *,
    there: int,
    write_s: float,
    folds: int,
) -> Cost:
    """Return what the trials that a study lacks, and `folds` studies of its size, will take.

    there: trials that the study holds; write_s: seconds of one entry in its storage. A trial costs its ranking, what its
    sampler thinks, and the entries it writes; a combination of choices that is new costs what those timed did.
    """
    lists, left = landscape.choice_lists, max(0, plan.total - there)
    sampled = plan.total - min(plan.places, plan.total)
    sampled_left = min(left, sampled)
    draw_s, trial_s = _draw_s(plan) if sampled else 0.0, _mean_trial_s(landscape, timed)
    named, share = _named_choices(plan), SHARE_NEW.get(plan.sampler, 1.0)
    made = [each.choice for each in timed]
    untimed = sum(choice not in made for choice in named) if there == 0 else 0
    unseen = max(0, math.prod(map(len, lists.values())) - len(made) - untimed)
    firsts = [each.first_s for each in timed[1:] or timed]
    typical_s, mean_s = float(np.median(firsts)), float(np.mean(firsts))  # of a few; of many
    entries = len(lists) + 2 * landscape.space.n_vertices(landscape.space.default) + OWN_ENTRIES
    trials_s = left * (trial_s + entries * write_s) + sampled_left * draw_s
    trials_s += typical_s * (untimed + min(unseen, share * sampled_left))
    folds_s = folds * (plan.total * trial_s + sampled * draw_s) + mean_s * min(
        unseen, share * folds * sampled
    )
    return Cost(left, trials_s, folds_s)


def _mean_trial_s(landscape: Landscape, timed: Sequence[TimedTrial]) -> float:
    """Seconds of a trial's ranking, on average over choices drawn at random."""
    rng, known = np.random.default_rng(0), {each.kind: each.seconds for each in timed}
    drawn = [
        {name: values[rng.integers(len(values))] for name, values in landscape.choice_lists.items()}
        for _ in range(DRAWN)
    ]
    slowest = max(known.values())
    return float(np.mean([known.get(landscape.kind(choice), slowest) for choice in drawn]))


def _draw_s(plan: studies.TrialPlan) -> float:
    """Seconds of one sampled trial but for its ranking, in the middle of the study: measured on made-up trials."""
    middle = (plan.places + plan.total) // 2
    known = min(middle, MOST_KNOWN)
    rng = np.random.default_rng(0)
    study = studies.open_study(optuna.storages.InMemoryStorage(), "draws", make_sampler("random", 0))
    blind = replace(plan, total=known, sampler="random")
    studies.run_trials(study, blind, lambda choice, coordinates: float(rng.random()))
    begun = time.perf_counter()
    studies.run_trials(
        study, replace(plan, total=known + DRAWS), lambda choice, coordinates: float(rng.random())
    )
    return (time.perf_counter() - begun) / DRAWS * middle / known


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def showable_gain(landscape: Landscape, untuned: np.ndarray) -> str:
    """Say how large a gain the public queries can show, between recipes as unlike as the untuned one and one vertex."""
    labelled, default = landscape.labelled, landscape.space.default
    public = labelled.public
    groups, weight = labelled.groups[public], labelled.weight[public]
    last = np.eye(landscape.space.n_vertices(default))[-1]
    difference = landscape.precisions(default, last) - untuned
    gain = smallest_gain(difference[public], groups, weight)
    photos = ~labelled.real[public]
    n_photos, n_groups = int(photos.sum()), len(np.unique(groups))
    share = f" ({n_photos} simulated photos, {weight[photos].sum() / weight.sum():.0%} of the mean)"
    counted = (
        f"{len(groups)} public queries{share if n_photos else ''} in {n_groups} group{'s' * (n_groups > 1)}"
    )
    if gain is None:
        return f"{counted}: they can show no gain and give no interval: label queries of other products"
    if gain == 0:
        return f"{counted}: the recipes at hand answer them alike, so what gain they can show is not known"
    return f"{counted} show a gain of {gain:.4f} or more (four times in five); a smaller one may be chance"


def affordable_folds(landscape: Landscape, combination: Combination, trials: int) -> int:
    """Return 5, or 0 where trials rank the whole gallery and folds would take too long."""
    full = any(landscape.kind(choice).startswith("full") for choice in landscape.space.single_changes())
    if combination.padded is not None and not full:
        return 5
    width = sum(dump.descriptors.shape[1] for dump in landscape.dumps(landscape.space.default)[1])
    work = 5.0 * trials * len(landscape.labelled.query_ids) * len(landscape.gallery_ids) * width
    if full and 2 * work <= FOLDS_LIMIT:
        return 5
    return 0
