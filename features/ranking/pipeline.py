"""Opened dumps and a recipe's steps in, lists out: what submit, predict, tune and compare share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.dumps import Dump, beside
from features.dumps.derived import content_digest
from features.ranking.state import Photos, State
from features.ranking.steps import apply_steps, check_steps, start


def dump_identity(dump: Dump) -> str:
    """Return a text that names a dump's recipe and changes with any of its rows: its name and a digest of the
    row sums.
    """
    sums = beside(dump.path, ".sums.npy")
    digest = (
        hashlib.sha256(sums.read_bytes()).hexdigest()[:12]
        if sums.exists()
        else content_digest(dump.descriptors)
    )
    return f"{dump.path.stem}-{digest}"


def start_with_dumps(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    groups: Sequence[int] | None = None,
    folder: Path | None = None,
    left_out: np.ndarray | None = None,
    progress: bool = False,
    photos: Photos | None = None,
    simulated: int = 0,
) -> State:
    """Return what a recipe's first step gets; see `features.ranking.steps.start`.

    queries, gallery: a dump for each component, in order; folder: where neighbour graphs and changed
    galleries are kept (`<work>/ranking`); left_out (n,) bool: gallery rows never listed, beside unreadable
    ones; photos: what the steps learn from, see `features.ranking.photos`.
    """
    excluded = np.logical_or.reduce([dump.unreadable for dump in gallery])
    if left_out is not None:
        excluded = excluded | left_out
    return start(
        [dump.descriptors for dump in queries],
        [dump.descriptors for dump in gallery],
        weights,
        k,
        excluded=excluded,
        groups=groups,
        identity=[dump_identity(dump) for dump in gallery] if folder else None,
        query_norms=[dump.norms for dump in queries],
        gallery_norms=[dump.norms for dump in gallery],
        unit=True,
        folder=folder,
        progress=progress,
        photos=photos,
        simulated=simulated,
    )


def rank_dumps(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[Mapping[str, Any]],
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64 after `steps`; options: see `start_with_dumps`.

    An unreadable query gets the first gallery rows.
    """
    check_steps(steps)
    return apply_steps(start_with_dumps(queries, gallery, weights, k, **options), steps).lists(k)
