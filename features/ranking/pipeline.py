"""Rows or opened dumps and a recipe's steps in, lists out: what submit, predict, tune and compare share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.dumps import Dump, beside
from features.dumps.derived import content_digest
from features.ranking.state import State
from features.ranking.steps import apply_steps, check_steps


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
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    excluded: np.ndarray | None = None,
    groups: Sequence[int] | None = None,
    identity: Sequence[str] | None = None,
    folder: Path | None = None,
    **more: Any,
) -> State:
    """Return what a recipe's first step gets.

    queries, gallery: L arrays (Q, D_l) and (n, D_l); weights (L,); k: length of the lists; groups (L,): for steps with
    weights of their own, the entry of the recipe each component stems from (default: each its own); identity (L,): what
    tells the gallery's components apart in file names (default: a digest of all bytes); more: see `State`.
    """
    count = len(gallery)
    if identity is None:
        identity = [content_digest(part) for part in gallery] if folder is not None else [""] * count
    return State(
        tuple(map(np.asarray, queries)),
        tuple(gallery),
        np.asarray(weights, dtype=np.float64),
        tuple(range(count)) if groups is None else tuple(groups),
        tuple(identity),
        np.zeros(len(gallery[0]), bool) if excluded is None else np.asarray(excluded, dtype=bool),
        k,
        folder=folder,
        **more,
    )


def start_with_dumps(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    k: int,
    *,
    folder: Path | None = None,
    left_out: np.ndarray | None = None,
    **more: Any,
) -> State:
    """Return what a recipe's first step gets, of a dump for each component, in order; more: see `start`.

    folder: where neighbour graphs and changed galleries are kept (`<work>/ranking`); left_out (n,) bool: gallery rows
    never listed, beside unreadable ones.
    """
    excluded = np.logical_or.reduce([dump.unreadable for dump in gallery])
    return start(
        [dump.descriptors for dump in queries],
        [dump.descriptors for dump in gallery],
        weights,
        k,
        excluded=excluded if left_out is None else excluded | left_out,
        identity=[dump_identity(dump) for dump in gallery] if folder else None,
        query_norms=tuple(dump.norms for dump in queries),
        gallery_norms=tuple(dump.norms for dump in gallery),
        unit=True,
        folder=folder,
        **more,
    )


def rank(
    queries: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[Mapping[str, Any]],
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64 after `steps`, best first, -1 and -inf for missing.

    options: see `start`. ConfigurationError: a step is unknown, misplaced or has a wrong argument.
    """
    check_steps(steps)
    return apply_steps(start(queries, gallery, weights, k, **options), steps).lists(k)


def rank_dumps(
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    weights: Sequence[float] | np.ndarray,
    steps: Sequence[Mapping[str, Any]],
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks (Q, k) int64 and scores (Q, k) float64 after checked `steps`; options: see `start_with_dumps`.

    An unreadable query gets the first gallery rows.
    """
    return apply_steps(start_with_dumps(queries, gallery, weights, k, **options), steps).lists(k)
