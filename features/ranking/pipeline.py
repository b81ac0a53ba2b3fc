"""Rows or opened dumps and a recipe's steps in, lists out: what submit, predict, tune and compare share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.dumps import Dump, beside
from features.dumps.derived import content_digest
from features.ranking.state import State
from features.ranking.steps import StepEntry, apply_steps


def dump_identity(dump: Dump) -> str:
    """Return a text that changes with a dump's recipe and with any of its rows: its name and a digest of the row sums."""
    sums = beside(dump.path, ".sums.npy")
    digest = (
        hashlib.sha256(sums.read_bytes()).hexdigest()[:12]
        if sums.exists()
        else content_digest(dump.descriptors)
    )
    return f"{dump.path.stem}-{digest}"


def start(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    groups: Sequence[int] | None = None,
    folder: Path | None = None,
    left_out: np.ndarray | None = None,
    **more: Any,
) -> State:
    """Return what a recipe's first step gets, of a dump for each component, in order.

    weights (L,); k: length of the lists; groups (L,): for steps with weights of their own, the entry of the recipe each
    component stems from (default: each its own); folder: where neighbour graphs and changed galleries are kept
    (`<work>/ranking`); left_out (n,) bool: gallery rows never listed, beside unreadable ones; more: see `State`.
    """
    excluded = np.logical_or.reduce([dump.unreadable for dump in gallery])
    return State(
        tuple(dump.descriptors for dump in queries),
        tuple(dump.descriptors for dump in gallery),
        np.asarray(weights, dtype=np.float64),
        tuple(range(len(gallery)) if groups is None else groups),
        tuple(dump_identity(dump) if folder else "" for dump in gallery),
        excluded if left_out is None else excluded | left_out,
        k,
        query_norms=tuple(dump.norms for dump in queries),
        gallery_norms=tuple(dump.norms for dump in gallery),
        unit=True,
        folder=folder,
        **more,
    )


def rank_dumps(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[StepEntry],
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64, best first, after checked `steps`; options: see `start`.

    -1 and -inf for missing. An unreadable query gets the first gallery rows.
    """
    state = start(queries, gallery, weights, k, **options)
    return apply_steps(state, steps).lists(k)
