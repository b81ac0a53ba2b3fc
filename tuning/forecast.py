"""What a study will cost and what it can show, measured before it begins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from competition.messages import log
from features.ranking.neighbours import duration
from tuning.combination import Combination
from tuning.landscape import Landscape
from tuning.validation import smallest_gain

DRAWN = 256  # choices drawn to see how often each kind comes
FOLDS_LIMIT = 2e13  # products of query and gallery entries, some ten minutes, that cross-validation may take


@dataclass(frozen=True)
class Kind:
    """One kind of trial.

    seconds: of one trial; first_s: before the first trial of a combination of choices; share: of the study's
    choices, roughly; combinations: how many such there are among the choices drawn.
    """

    name: str
    seconds: float
    first_s: float
    share: float
    combinations: int


def measured_kinds(landscape: Landscape) -> list[Kind]:
    """Time one trial of each kind, at the centroid: the kinds of the first choices and of each other single choice."""
    lists, space = landscape.choice_lists, landscape.space
    tried = {landscape.kind(space.default): space.default}
    for choice in space.single_changes() if space.steps else []:
        tried.setdefault(landscape.kind(choice), choice)
    generator = np.random.default_rng(0)
    made: dict[str, Counter[str]] = {name: Counter() for name in tried}
    for _ in range(DRAWN):
        drawn = {name: values[generator.integers(len(values))] for name, values in lists.items()}
        own = repr((space.components_of(drawn), landscape.steps(drawn)[0]))
        made.setdefault(landscape.kind(drawn), Counter())[own] += 1
    return [_timed(landscape, name, choice, made[name]) for name, choice in tried.items()]


def _timed(landscape: Landscape, name: str, choice: dict, drawn: Counter[str]) -> Kind:
    begun = time.perf_counter()
    combination = landscape.combination(choice)
    made = time.perf_counter()
    combination.average_precisions(combination.corners.mean(axis=0))
    seconds = time.perf_counter() - made
    if combination.scene is None and not name.startswith("full"):
        name = f"full gallery, for the region prunes badly ({name})"
    return Kind(name, seconds, made - begun, drawn.total() / DRAWN, max(1, len(drawn)))


def kinds_text(kinds: Sequence[Kind], trials: int) -> str:
    """Return a line a kind, and what `trials` will take: each kind by its share, each combination made once."""
    lines = [
        f"a trial by {kind.name}: {_short(kind.seconds)}, after {_short(kind.first_s)} once for each combination of "
        "choices"
        for kind in kinds
    ]
    known = sum(kind.share for kind in kinds) or 1.0
    seconds = sum(
        trials * kind.share / known * kind.seconds
        + min(kind.combinations, trials * kind.share) * kind.first_s
        for kind in kinds
    )
    return "\n".join([*lines, f"{trials} trials: about {duration(seconds)}"])


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
        return f"{counted}: no gain can be told from chance and no interval given: label queries of other products"
    if gain == 0:
        return f"{counted}: the recipes at hand answer them alike, so what gain they can show is not known"
    return f"{counted} show a gain of {gain:.4f} or more (four times in five); a smaller one may be chance"


def affordable_folds(landscape: Landscape, combination: Combination, trials: int) -> int:
    """Return 5, or 0, with a message, where trials rank the whole gallery and folds would take too long."""
    full = any(landscape.kind(choice).startswith("full") for choice in landscape.space.single_changes())
    if combination.scene is not None and not full:
        return 5
    width = sum(dump.descriptors.shape[1] for dump in landscape.dumps(landscape.space.default)[1])
    work = 5.0 * trials * len(landscape.labelled.query_ids) * len(landscape.gallery_ids) * width
    if full and 2 * work <= FOLDS_LIMIT:
        return 5
    log.info(
        "no cross-validation: each trial ranks the whole gallery here, and folds would repeat the study: --folds 5 does it"
    )
    return 0
