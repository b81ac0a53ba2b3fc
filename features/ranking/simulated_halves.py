"""Simulated photos for their two uses: the half of the sampled images that teaches, and the half that judges.

Which image is in which half is decided here, at each use, from the dumps alone: images that look alike (equal files
have equal descriptors) by the deepest layer of the first backbone go to the same half. Every component and every
caller thus sees the same halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from competition.configuration import SIMULATED, Configuration
from competition.errors import ConfigurationError
from competition.once import once
from competition.simulated_split import first_drawn, judging, photo_id, sampled_rows
from features.components import Component, layer_component, layers_under
from features.descriptors import open_components
from features.dumps import Dump

ALIKE = 0.95  # cosine about the gallery's mean
BLOCK_ROWS = 4096


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
    left = _centred(gallery, sources, mean)
    found = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        place, other = np.nonzero(left @ _centred(gallery, block, mean).T >= ALIKE)
        found.append((place, block[other]))
    places, others = zip(*found) if found else ((), ())
    return np.concatenate([*places, np.zeros(0, int)]), np.concatenate([*others, np.zeros(0, int)])


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
