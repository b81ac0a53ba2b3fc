"""Dumps after the steps that no trial's weights change: derived dumps with digests and candidates of their own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.components import Component
from features.dumps import Dump
from features.ranking.state import Photos, State, start
from features.ranking.steps import apply_steps, step_of
from tuning.candidates import excluded_rows
from tuning.step_choices import StepEntry

HELD_BYTES = 64 << 20  # of gallery dumps up to which the steps leave no files; four sets are held


@dataclass(frozen=True)
class Prepared:
    """The dumps after steps, queries and gallery, one a component; state: the same for the next step.

    components: their chains as the region orders them now.
    """

    components: tuple[Component, ...]
    state: State
    queries: tuple[Dump, ...]
    gallery: tuple[Dump, ...]


@contextlib.contextmanager
def scratch(folder: Path | None, steps: Sequence[StepEntry]) -> Iterator[Path | None]:
    """A folder for what the steps of one trial keep on the disk, which is removed again; `folder` where they keep none."""
    if folder is None or not any(step_of(step).keeps_files for step in steps):
        yield folder
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trial-", dir=folder) as made:
        yield Path(made)


def prepare(
    components: Sequence[Component],
    queries: Sequence[Dump],
    gallery: Sequence[Dump],
    own: Sequence[StepEntry],
    k: int,
    folder: Path | None,
    *,
    photos: Photos | None = None,
    simulated: int = 0,
) -> Prepared:
    """Return dumps, one a component, after the steps `own`, as small ones in memory, others in `folder`.

    That is `<work>/ranking`, where submit looks; None: all in memory. After whitening and z-normalisation rows are
    centred: each component is then a chain of its own. A step that joins the components leaves one. photos: what the
    steps learn from; simulated: so many of the last queries are simulated.
    """
    weights = np.full(len(components), 1.0 / len(components))
    more: dict[str, Any] = {"folder": folder, "photos": photos, "simulated": simulated}
    state = start(queries, gallery, weights, k, progress=True, **more)
    if own:
        held = sum(rows.nbytes for rows in state.gallery) <= HELD_BYTES
        state = apply_steps(replace(state, many=True, held=held), own).written_out()
        if len(state.gallery) < len(components):
            name = " + ".join(component.name for component in components)
            components, both = [Component(name, name)], (queries, gallery)
            queries, gallery = ([replace(dumps[0], unreadable=excluded_rows(dumps))] for dumps in both)
        paths = map(Path, state.identity)
        queries = [_with_rows(dump, rows, dump.path) for dump, rows in zip(queries, state.queries)]
        gallery = [_with_rows(*each) for each in zip(gallery, state.gallery, paths)]
    if any(step_of(step).centres for step in own):
        components = [replace(component, chain=component.name) for component in components]
    return Prepared(tuple(components), state, tuple(queries), tuple(gallery))


def _with_rows(dump: Dump, rows: np.ndarray, path: Path) -> Dump:
    """Return the dump with other unit rows; `path`, of no file, tells them apart."""
    return replace(dump, path=path, descriptors=rows, norms=np.ones(len(rows), dtype=np.float32), sidecar={})
