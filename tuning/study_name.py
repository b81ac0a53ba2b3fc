"""The name of a study: a digest of all that a trial's value depends on."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from competition.images import ids_digest
from competition.metrics import WHOLE_LISTS
from features.ranking.photos import photos_for
from features.ranking.state import Photos
from tuning.landscape import Landscape

SEARCH = (
    1  # raise it where a trial's parameters come to mean other weights, or its figure is computed otherwise
)


def study_name(landscape: Landscape) -> str:
    """Name what a trial's value depends on: a study of other data, other choices or another search is another study."""
    configuration, labelled, space = landscape.configuration, landscape.labelled, landscape.space
    tuning, competition = configuration.tuning, configuration.competition
    described = {
        "choices": {name: list(values) for name, values in landscape.choice_lists.items()},
        "region": tuning.region,
        "gallery": ids_digest(landscape.gallery_ids),
        "queries": ids_digest(labelled.query_ids),
        "relevant": [rows.tolist() for rows in labelled.relevant],
        "top_k": competition.top_k,
        "private": np.flatnonzero(labelled.private).tolist(),
        "sampler": tuning.sampler,
        "dumps": _dump_names(landscape),
        "search": SEARCH,
    }
    described |= {} if landscape.metric == "map" else {"metric": landscape.metric}
    if landscape.metric == WHOLE_LISTS:
        described["junk"] = [rows.tolist() for rows in labelled.junk]
    objective = configuration.objective
    if objective != "labels":
        described["objective"] = [objective, labelled.weight.tolist()]
    if space.steps:
        described["steps"] = [
            [step.name, step.optional, {key: list(values) for key, values in step.values.items()}]
            for step in space.steps
        ]
        photos = _photos(landscape)
        described |= {} if photos is None else {"photos": photos.identity}
    if space.recipe is not None:
        described["recipe"] = [
            [part.name for part in space.recipe.components],
            list(space.recipe.weights),
        ]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    studied = [] if space.recipe is None else [space.recipe.name]
    return "-".join([competition.name, *studied, digest])


def _dump_names(landscape: Landscape) -> list[str]:
    """The dump files of the first choice, whose names hold the digest of what made them, and the boxes cut out."""
    queries, gallery = landscape.dumps(landscape.space.default)
    folders = {dump.path.parent.name for dump in (*queries, *gallery)}
    cut = sorted(name for name in folders if name.startswith("cut-"))
    return sorted(dump.path.name for dump in gallery) + cut


def _photos(landscape: Landscape) -> Photos | None:
    """What the steps of the first choice learn from, whichever shares of user photos they may take."""
    steps = [
        {"step": step.name, "unlabelled": share}
        for step in landscape.space.steps
        for share in step.values.get("unlabelled", (0,))
    ]
    components = landscape.space.components_of(landscape.space.default)
    return photos_for(landscape.configuration, components, steps, landscape.gallery_ids)
