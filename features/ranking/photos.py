"""Photos that teach a recipe's steps, and photos that judge: simulated ones, and those of users.

Simulated photos have two uses: the half of the sampled images that teaches, and the half that judges. Which image is in
which half is decided here, at each use, from the dumps alone: images that look alike (equal files have equal
descriptors) by the deepest layer of the first backbone go to the same half. Every component and every caller thus sees
the same halves. Labelled queries teach too where a step asks for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from competition.configuration import SIMULATED, USERS, Configuration
from competition.configured import labelled_validation, split_images
from competition.errors import ConfigurationError
from competition.labels import relevant_rows
from competition.messages import log
from competition.once import once
from competition.simulated_split import first_drawn, judging, photo_id, sampled_rows
from competition.splits import folds, groups_and_private
from features.components import Component, layer_component, layers_under
from features.descriptors import open_components
from features.dumps import Dump
from features.dumps.derived import digest_of
from features.ranking.state import Photos, dump_identity
from features.ranking.steps import STEPS
from features.search.row_views import RowStack

ALIKE = 0.95  # cosine about the gallery's mean
BLOCK_ROWS = 4096
TAUGHT_PARTS, OF_LARGE_GALLERY = 5, 2  # of the labelled queries: each is one more pass over the gallery
LARGE_ROWS = 50_000


@dataclass(frozen=True)
class Judging:
    """Photos as queries.

    ids: (m,); gallery_rows: (m,) int64, the image each was made of; correct: m arrays of gallery rows, ascending: that
    image and all that look like it; groups: (m,) int64, the same number for photos of images that are alike.
    """

    ids: tuple[str, ...]
    gallery_rows: np.ndarray
    correct: list[np.ndarray]
    groups: np.ndarray


@dataclass(frozen=True)
class _Halves:
    """All photos: ids, the gallery row of each, its group, whether it judges; and the gallery by the deciding layer."""

    ids: tuple[str, ...]
    gallery_rows: np.ndarray
    groups: np.ndarray
    judges: np.ndarray
    deciding: Component
    gallery: Dump


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
    outside = [component.name for component in components if component.external is not None]
    if min(shares) < 1 and outside:
        raise ConfigurationError(
            f"{configuration.path}: {outside[0]}: descriptors made elsewhere do not describe simulated photos: leave it, "
            "or the step that learns from them, out"
        )
    everything = not photos_judge and any(step.get("all_photos", False) for step in learning)
    found = [open_teaching(configuration, components, gallery_ids, everything)] if min(shares) < 1 else []
    made = sum(len(pairs) for _, pairs in found)
    if max(shares) == 1 or max(shares) > 0 and configuration.competition.labelled:
        found.append(_labelled(configuration, components, gallery_ids, unseen))
    starts = [0, *(len(dumps[0].ids) for dumps, _ in found[:-1])]
    pairs = np.concatenate([pairs + [start, 0] for (_, pairs), start in zip(found, starts)])
    real = np.arange(len(pairs)) >= made
    each = zip(*(dumps for dumps, _ in found))
    rows: tuple[Any, ...] = tuple(RowStack([dump.descriptors for dump in dumps]) for dumps in each)
    asked = any(step.get("unlabelled", 0) for step in learning)
    splits = _user_photos(configuration, components) if asked else []
    users = tuple(np.concatenate([dump.descriptors for dump in dumps]) for dumps in zip(*splits))
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


def open_teaching(
    configuration: Configuration,
    components: Sequence[Component],
    gallery_ids: Sequence[str],
    everything: bool = False,
) -> tuple[list[Dump], np.ndarray]:
    """Open the photos: a dump a component, of all of them, and (p, 2) int64, those that teach and the image of each.

    everything: the judging half teaches too. No unreadable photo or image teaches. ConfigurationError where none does;
    Top7Error where no dump holds them.
    """
    halves = _halves(configuration, gallery_ids)
    rows = _chosen(configuration, halves, ~halves.judges | everything, "teach")
    dumps = open_components(configuration, components, SIMULATED, halves.ids)
    rows = rows[~np.logical_or.reduce([dump.unreadable[rows] for dump in dumps])]
    return dumps, np.stack([rows, halves.gallery_rows[rows]], axis=1)


def open_judging(
    configuration: Configuration, gallery_ids: Sequence[str], limit: int | None = None
) -> Judging:
    """Return the photos that judge, at most `limit` of them, drawn by seed. Errors as in `open_teaching`."""
    halves = _halves(configuration, gallery_ids)
    rows = _chosen(configuration, halves, halves.judges, "judge")
    open_components(configuration, [halves.deciding], SIMULATED, halves.ids)  # they are extracted
    if limit is not None:
        row_of = {halves.ids[row]: row for row in rows.tolist()}
        rows = np.array([row_of[i] for i in first_drawn(row_of, limit, configuration.simulate.seed)])
    gallery_rows = halves.gallery_rows[rows]
    sources = np.unique(gallery_rows)
    first, second = _alike(halves.gallery, sources, np.arange(len(halves.gallery.descriptors)))
    alike = {int(row): np.union1d(second[first == place], row) for place, row in enumerate(sources)}
    ids = tuple(halves.ids[row] for row in rows.tolist())
    return Judging(ids, gallery_rows, [alike[row] for row in gallery_rows.tolist()], halves.groups[rows])


def judging_dumps(
    configuration: Configuration, components: Sequence[Component], ids: Sequence[str]
) -> list[Dump]:
    """Open the photos `ids` as queries, in that order: one dump a component, in memory."""
    whole = open_components(configuration, components, SIMULATED, None)
    row_of = {name: row for row, name in enumerate(whole[0].ids)}
    rows = np.array([row_of[name] for name in ids], dtype=np.int64)
    return [
        replace(
            dump,
            ids=tuple(ids),
            descriptors=np.asarray(dump.descriptors[rows]),
            norms=dump.norms[rows],
            unreadable=dump.unreadable[rows],
            sidecar={key: value for key, value in dump.sidecar.items() if key != "column_sum"},
        )
        for dump in whole
    ]


def _halves(configuration: Configuration, gallery_ids: Sequence[str]) -> _Halves:
    from scipy.sparse import coo_matrix  # a bundle does without
    from scipy.sparse.csgraph import connected_components

    if not configuration.simulate.images or not configuration.backbones:
        lacking = "a [[backbone]]" if configuration.simulate.images else "[simulate] images above 0"
        raise ConfigurationError(
            f"{configuration.path}: there are no simulated photos: add {lacking} and run ./run.sh extract"
        )
    backbone = configuration.backbones[0]
    pooling = backbone.pooling[0]
    deciding = layer_component(backbone, layers_under(backbone, pooling)[-1], pooling)
    (gallery,) = open_components(configuration, [deciding], "gallery", gallery_ids)
    settings = configuration.simulate
    sources = once(sampled_rows, tuple(gallery_ids), settings)
    names = [gallery_ids[row] for row in sources.tolist()]
    first, second = _alike(gallery, sources, sources)
    graph = coo_matrix((np.ones(len(first)), (first, np.searchsorted(sources, second))), (len(sources),) * 2)
    _, groups = connected_components(graph, directed=False)
    judges = judging(names, groups, settings.seed)
    ids = tuple(photo_id(name, view) for name in names for view in range(settings.views))
    rows, numbers, judge = (
        np.repeat(values, settings.views) for values in (sources, groups.astype(np.int64), judges)
    )
    return _Halves(ids, rows, numbers, judge, deciding, gallery)


def _alike(gallery: Dump, sources: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places in `sources`, gallery rows) of the pairs of a source and one of `rows` that look alike.

    Their cosine about the gallery's mean is at least ALIKE; unreadable images are like none. Memory: the sources and a
    block.
    """
    readable = int((~gallery.unreadable).sum())
    mean = gallery.column_sum(np.zeros(len(gallery.unreadable), dtype=bool)) / max(1, readable)
    left, found = _centred(gallery, sources, mean), [np.zeros((2, 0), dtype=np.int64)]
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        place, other = np.nonzero(left @ _centred(gallery, block, mean).T >= ALIKE)
        found.append(np.stack([place, block[other]]))
    first, second = np.concatenate(found, axis=1)
    return first, second


def _centred(gallery: Dump, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(m, D) float32 unit rows about the mean; zero for unreadable images."""
    found = (gallery.descriptors[rows] - mean).astype(np.float32)
    found[gallery.unreadable[rows]] = 0
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.divide(found, norms, out=np.zeros_like(found), where=norms > 0)


def _chosen(configuration: Configuration, halves: _Halves, half: np.ndarray, use: str) -> np.ndarray:
    """The photos of one half, of images that the gallery has."""
    if not half.any():
        images, groups = len(np.unique(halves.gallery_rows)), len(np.unique(halves.groups))
        raise ConfigurationError(
            f"{configuration.path}: no simulated photo can {use}: the {images} sampled images form {groups} groups that "
            "look alike, at least 2 are needed: raise [simulate] images"
        )
    return np.flatnonzero(half & ~halves.gallery.unreadable[halves.gallery_rows])
