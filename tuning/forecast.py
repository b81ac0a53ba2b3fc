"""What a study will cost and what it can show, measured before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from competition.messages import log
from tuning.combination import Combination
from tuning.landscape import Landscape
from tuning.validation import smallest_gain

FOLDS_LIMIT = 2e13  # products of query and gallery entries, some ten minutes, that cross-validation may take


@dataclass(frozen=True)
class Kind:
    """A kind of trial: seconds of one, and first_s before the first one of a combination of choices."""

    name: str
    seconds: float
    first_s: float


def measured_kinds(landscape: Landscape) -> list[Kind]:
    """Time one trial of each kind, at the centroid: the kinds of the first choices and of each other value of a step."""
    tried: dict[str, dict[str, Any]] = {}
    for choice in landscape.space.single_changes():
        tried.setdefault(landscape.kind(choice), choice)
    return [_timed(landscape, name, choice) for name, choice in tried.items()]


def _timed(landscape: Landscape, name: str, choice: dict[str, Any]) -> Kind:
    begun = time.perf_counter()
    combination = landscape.combination(choice)
    made = time.perf_counter()
    combination.average_precisions(combination.corners.mean(axis=0))
    seconds = time.perf_counter() - made
    if combination.scene is None and not name.startswith("full"):
        name = f"full gallery, for the region prunes badly ({name})"
    return Kind(name, seconds, made - begun)


def kinds_text(kinds: Sequence[Kind]) -> str:
    """Return a line a kind."""
    return "\n".join(
        f"a trial by {kind.name}: {_short(kind.seconds)}, after {_short(kind.first_s)} once for each combination of "
        "choices"
        for kind in kinds
    )


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
