"""What a study will cost and what it can show, measured before it begins."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna

from competition.messages import duration
from tuning import study as studies
from tuning.landscape import Landscape
from tuning.validation import smallest_gain

FOLDS_LIMIT = 2e13  # products of query and gallery entries, some ten minutes, that cross-validation may take
SHARE_NEW = {"tpe": 0.05}  # of a sampler's draws that are of choices no trial had; others draw them blindly
MOST_KNOWN = 300  # made-up trials among which a draw is timed: what it thinks grows with their number
PRUNES_BADLY = "for the region prunes badly"
OWN_ENTRIES = 4  # of a trial in the storage: its start, private figure, figure, and what it is noted by


@dataclass(frozen=True)
class Kind:
    """A kind of trial, by one that was timed: its seconds, and those before the first of its choices."""

    name: str
    seconds: float
    first_s: float

    def __str__(self) -> str:
        each, once = (f"{s * 1e3:.1f} ms" if s < 0.1 else f"{s:.2f} s" for s in (self.seconds, self.first_s))
        return f"a trial by {self.name}: {each}, after {once} once for each combination of choices"


def kinds_of(landscape: Landscape) -> list[Kind]:
    """Time one trial, at the centroid, of each kind that the steps' values make."""
    found: dict[str, Kind] = {}
    for choice in landscape.space.single_changes():
        kind = landscape.kind(choice)
        if kind in found:
            continue
        combination = landscape.combination(choice)
        badly = combination.padded is None and not kind.startswith("full")
        name = f"full gallery, {PRUNES_BADLY} ({kind})" if badly else kind
        begun = time.perf_counter()
        combination.average_precisions(combination.corners.mean(axis=0))
        found[kind] = Kind(name, time.perf_counter() - begun, combination.made_s)
    return list(found.values())


def cost(study: optuna.Study, plan: studies.TrialPlan, kinds: Sequence[Kind], folds: int) -> str | None:
    """Say what the trials that a study lacks, and `folds` studies of its size, will take; None where it lacks none.

    A trial costs its ranking, what its sampler thinks, and the entries it writes; a combination of choices that is new
    costs what those timed did.
    """
    there, space = len(studies.completed(study)), plan.space
    left, sampled = plan.total - there, plan.total - plan.places
    if left <= 0:
        return None
    begun = time.perf_counter()
    study.set_user_attr("trials", plan.total)
    write_s = time.perf_counter() - begun
    trial_s = float(np.mean([kind.seconds for kind in kinds]))
    first_s = float(np.mean([kind.first_s for kind in kinds]))
    draw_s = _draw_s(plan) if sampled else 0.0
    named = [studies.point_of(point)[0] for point in plan.first(plan.places)]
    distinct = sum(choice not in named[:number] for number, choice in enumerate(named))
    unseen = math.prod(map(len, space.choice_lists.values())) - distinct
    share, drawn = SHARE_NEW.get(plan.sampler, 1.0), min(left, sampled)
    entries = len(space.choice_lists) + 2 * space.n_vertices(space.default) + OWN_ENTRIES
    new = min(unseen, share * drawn) + (0 if there else distinct)
    trials_s = left * (trial_s + entries * write_s) + drawn * draw_s + first_s * new
    said = f"to come: about {duration(trials_s)} for {left} trials"
    if not folds:
        return said
    folds_s = folds * (plan.total * trial_s + sampled * draw_s)
    folds_s += first_s * min(unseen, share * folds * sampled)
    return f"{said}, {duration(folds_s)} for cross-validation"


def _draw_s(plan: studies.TrialPlan) -> float:
    """Seconds that a sampler thinks of a trial in the middle of the study: measured on made-up trials."""
    middle = (plan.places + plan.total) // 2
    known = min(middle, MOST_KNOWN)
    study = studies.open_study(optuna.storages.InMemoryStorage(), "draws")
    figures = np.random.default_rng(0)
    studies.run_trials(study, replace(plan, total=known, sampler="random"), lambda *point: figures.random())
    begun = time.perf_counter()
    studies.run_trials(study, replace(plan, total=known + 2), lambda *point: figures.random())
    return (time.perf_counter() - begun) / 2 * middle / known


def showable_gain(landscape: Landscape, untuned: np.ndarray) -> str:
    """Say how large a gain the public queries can show, between recipes as unlike as the untuned one and one vertex."""
    labelled, default = landscape.labelled, landscape.space.default
    public = labelled.public
    groups, weight = labelled.groups[public], labelled.weight[public]
    last = np.eye(landscape.space.n_vertices(default))[-1]
    difference = landscape.precisions(default, last) - untuned
    gain = smallest_gain(difference[public], groups, weight)
    photos, n_groups = ~labelled.real[public], len(np.unique(groups))
    counted = f"{len(groups)} public queries"
    if photos.any():
        share = weight[photos].sum() / weight.sum()
        counted += f" ({photos.sum()} simulated photos, {share:.0%} of the mean)"
    counted += f" in {n_groups} group{'s' * (n_groups > 1)}"
    if gain is None:
        return f"{counted}: they can show no gain and give no interval: label queries of other products"
    if gain == 0:
        return f"{counted}: the recipes at hand answer them alike, so what gain they can show is not known"
    return f"{counted} show a gain of {gain:.4f} or more (four times in five); a smaller one may be chance"


def affordable_folds(landscape: Landscape, kinds: Sequence[Kind], trials: int) -> int:
    """Return 5, or 0 where trials rank the whole gallery and folds would take too long."""
    full = [kind.name for kind in kinds if kind.name.startswith("full gallery")]
    if not full:
        return 5
    width = sum(dump.descriptors.shape[1] for dump in landscape.dumps(landscape.space.default)[1])
    work = 10.0 * trials * len(landscape.labelled.query_ids) * len(landscape.gallery_ids) * width
    return 5 if work <= FOLDS_LIMIT and not any(PRUNES_BADLY in name for name in full) else 0
