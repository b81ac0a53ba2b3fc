"""The photos that a recipe's steps learn from: simulated ones of the teaching half, labelled ones of public queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from competition.configuration import USERS, Configuration
from competition.configured import labelled_validation, split_images
from competition.errors import ConfigurationError
from competition.labels import relevant_rows
from competition.messages import log
from competition.splits import folds, groups_and_private
from features.components import Component
from features.descriptors import open_components
from features.dumps import Dump
from features.dumps.derived import digest_of
from features.ranking.pipeline import dump_identity
from features.ranking.state import Photos
from features.ranking.steps import STEPS
from features.search.row_views import RowStack

TAUGHT_PARTS, OF_LARGE_GALLERY = 5, 2  # of the labelled queries: each is one more pass over the gallery
LARGE_ROWS = 50_000


def learns_from_photos(step: Mapping[str, Any]) -> bool:
    """Say whether a step learns from photos, and these are not in a bundle's files already."""
    return STEPS[step["step"]].needs_photos and "learnt" not in step


def learns_from_labels(step: Mapping[str, Any]) -> bool:
    """Say whether a step learns from labelled queries."""
    return learns_from_photos(step) and bool(step.get("pairs", 0))


def photos_for(
    configuration: Configuration,
    components: Sequence[Component],
    steps: Sequence[Mapping[str, Any]],
    gallery_ids: Sequence[str],
    unseen: Collection[str] = (),
    photos_judge: bool = False,
) -> Photos | None:
    """Return what `steps` learn from, described by `components`; None where no step learns from photos.

    configuration: the whole one, whose first backbone says which photos teach; gallery_ids: as the dumps have them;
    unseen: ids of queries whose labels teach nothing; photos_judge: photos of the judging half are ranked, so these
    teach nothing either. ConfigurationError: no [simulate] in the configuration, or no labels where they alone teach;
    Top7Error: a dump is missing.
    """
    learning = [step for step in steps if learns_from_photos(step)]
    shares = [step.get("pairs", 0) for step in learning]
    if not shares:
        return None
    everything = not photos_judge and any(step.get("all_photos", False) for step in learning)
    found = [_simulated(configuration, components, gallery_ids, everything)] if min(shares) < 1 else []
    made = sum(len(pairs) for _, pairs in found)
    if max(shares) == 1 or max(shares) > 0 and configuration.competition.labelled:
        found.append(_labelled(configuration, components, gallery_ids, unseen))
    starts = [0, *(len(dumps[0].ids) for dumps, _ in found[:-1])]
    pairs = np.concatenate([pairs + [start, 0] for (_, pairs), start in zip(found, starts)])
    real = np.arange(len(pairs)) >= made
    rows: tuple[Any, ...] = tuple(
        RowStack([dumps[number].descriptors for dumps, _ in found]) for number in range(len(components))
    )
    asked = any(step.get("unlabelled", 0) for step in learning)
    splits = _user_photos(configuration, components) if asked else []
    users = tuple(
        np.concatenate([dumps[number].descriptors for dumps in splits])
        for number in range(len(components) if splits else 0)
    )
    identities = [dump_identity(dump) for dumps in [*(each for each, _ in found), *splits] for dump in dumps]
    return Photos(rows, pairs, real, digest_of([identities, pairs.tolist(), real.tolist()]), users)


def _user_photos(configuration: Configuration, components: Sequence[Component]) -> list[list[Dump]]:
    """The dumps of the validation and the test queries, of whichever there are; no label is read."""
    splits = [split for split in USERS if getattr(configuration.competition, split) is not None]
    if not splits:
        log.info(
            "photo_whiten: no user photos, neither validation nor test: it learns from simulated photos alone"
        )
    return [
        open_components(configuration, components, split, split_images(configuration, split).ids)
        for split in splits
    ]


def _simulated(
    configuration: Configuration,
    components: Sequence[Component],
    gallery_ids: Sequence[str],
    everything: bool,
) -> tuple[list[Dump], np.ndarray]:
    """The dumps of the simulated photos, and (photo, gallery row) of the readable ones that teach."""
    outside = [component.name for component in components if component.external is not None]
    if outside:
        raise ConfigurationError(
            f"{configuration.path}: {outside[0]}: descriptors made elsewhere do not describe simulated photos: leave it, "
            "or the step that learns from them, out"
        )
    from features.ranking.simulated_halves import open_teaching  # a bundle does without

    return open_teaching(configuration, components, gallery_ids, everything)


def _labelled(
    configuration: Configuration,
    components: Sequence[Component],
    gallery_ids: Sequence[str],
    unseen: Collection[str],
) -> tuple[list[Dump], np.ndarray]:
    """The dumps of the validation queries, and (query, gallery row) of the readable public ones but for `unseen`."""
    ids, labels, _ = labelled_validation(configuration, gallery_ids)
    relevant = relevant_rows(labels, gallery_ids)
    _, private = groups_and_private(relevant, configuration.tuning)
    dumps = open_components(configuration, components, "validation", ids)
    hidden = np.logical_or.reduce([private, np.isin(ids, list(unseen)), *(dump.unreadable for dump in dumps)])
    found = [(query, row) for query, rows in enumerate(relevant) if not hidden[query] for row in rows]
    return dumps, np.array(found, dtype=np.int64).reshape(-1, 2)


def teaching_parts(configuration: Configuration, gallery_ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the ids of the queries whose labels teach, in parts of whole groups: none teaches what ranks its own part."""
    ids, labels, _ = labelled_validation(configuration, gallery_ids)
    groups, private = groups_and_private(relevant_rows(labels, gallery_ids), configuration.tuning)
    taught, names = groups[~private], np.array(ids)[~private]
    parts = OF_LARGE_GALLERY if len(gallery_ids) > LARGE_ROWS else TAUGHT_PARTS
    part_of = folds(taught, min(parts, len(np.unique(taught))), configuration.tuning.seed)
    return [tuple(names[part_of == part].tolist()) for part in range(part_of.max() + 1)]
