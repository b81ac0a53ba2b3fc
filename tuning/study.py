"""The Optuna study: which points are tried first, how a trial becomes weights, and how the total is respected.

The region is a simplex, but Optuna has no simplex parameters: a trial holds one u in (0, 1] a vertex, and
-log(u), normalised, are its barycentric coordinates (uniform for uniform u; u = 1 is exactly zero, so vertices
and faces, where the optimum can lie, are tried by name first).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

from competition.errors import ConfigurationError
from tuning.region import face_uniforms, uniform_coordinates

SMALLEST_U = 1e-9
GRACE_S = 3600  # a trial on another machine that runs for longer is given up: its worker is gone
COUNTED = (TrialState.COMPLETE, TrialState.RUNNING)
Evaluate = Callable[[dict[str, object], np.ndarray], float]


def open_storage(storage: str | None, work: Path) -> optuna.storages.BaseStorage:
    """Return the study's storage: a journal file under `work`, or the URL given (PostgreSQL across machines)."""
    if storage is None:
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        path = Path(work) / "study" / "journal.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(
            JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        )
    try:
        return optuna.storages.RDBStorage(storage)
    except Exception as error:  # SQLAlchemy's and the driver's own errors have no common root
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"[tuning] storage = {_without_password(storage)!r} cannot be opened: {reason}"
        ) from error


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else url


def open_study(
    storage: optuna.storages.BaseStorage, name: str, sampler: optuna.samplers.BaseSampler
) -> optuna.Study:
    """Return the study `name` (maximising), made if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the progress bar says how the trials go
    return optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True
    )


def first_points(
    choice_lists: Mapping[str, Sequence], n_vertices: int, alone: Sequence[tuple[int, Sequence[str]]] = ()
) -> Iterator[dict[str, object]]:
    """Yield the named points to try first, as parameters: the best known places before any sampling.

    The first values of every choice: the centroid and all vertices; then each chain alone under every combination of
    the choices that make it (alone: its deepest vertex and their names; their number adds up over chains, where all
    combinations would multiply); then each other single choice at the centroid; then the centroids of the edges and
    of the larger faces.
    """
    default = {name: values[0] for name, values in choice_lists.items()}
    vertices = range(n_vertices)
    whole = tuple(vertices)
    yield parameters(default, face_uniforms(whole, n_vertices))
    for vertex in vertices:
        if n_vertices > 1:
            yield parameters(default, face_uniforms((vertex,), n_vertices))
    for vertex, names in alone:
        for values in list(product(*(choice_lists[name] for name in names)))[1:]:
            yield parameters({**default, **dict(zip(names, values))}, face_uniforms((vertex,), n_vertices))
    for name, values in choice_lists.items():
        for value in values[1:]:
            yield parameters({**default, name: value}, face_uniforms(whole, n_vertices))
    for size in [2, *range(n_vertices - 1, 2, -1)]:
        if size < n_vertices:
            for face in combinations(vertices, size):
                yield parameters(default, face_uniforms(face, n_vertices))


def parameters(choice: Mapping[str, object], uniforms: np.ndarray) -> dict[str, object]:
    """Return the trial parameters of a choice and one u a vertex."""
    return {**choice, **{f"u{vertex}": float(u) for vertex, u in enumerate(uniforms)}}


def point_of(
    values: Mapping[str, object], choice_lists: Mapping[str, Sequence]
) -> tuple[dict[str, object], np.ndarray]:
    """Return (choice, barycentric coordinates) of a trial's parameters."""
    uniforms = [
        values[f"u{vertex}"]
        for vertex in range(sum(name.startswith("u") and name[1:].isdigit() for name in values))
    ]
    return {name: values[name] for name in choice_lists}, uniform_coordinates(
        np.array(uniforms, dtype=np.float64)
    )


def suggest(trial: optuna.Trial, choice_lists: Mapping[str, Sequence], n_vertices: int) -> dict[str, object]:
    """Let the sampler fill in a trial's parameters."""
    values: dict[str, object] = {
        name: trial.suggest_categorical(name, list(known)) for name, known in choice_lists.items()
    }
    uniforms = [trial.suggest_float(f"u{vertex}", SMALLEST_U, 1.0) for vertex in range(n_vertices)]
    if n_vertices and max(uniforms) == min(uniforms) == 1.0:
        uniforms = list(face_uniforms(range(n_vertices), n_vertices))  # no direction at all: the centroid
    return parameters(values, np.array(uniforms))


def enqueue_first_points(
    study: optuna.Study,
    choice_lists: Mapping[str, Sequence],
    n_vertices: int,
    share: int,
    alone: Sequence[tuple[int, Sequence[str]]] = (),
    known: Sequence[Mapping[str, object]] = (),
) -> None:
    """Enqueue `known` parameters and the named points (see `first_points`), at most `share`, once in a study's life."""
    if study.user_attrs.get("first points enqueued"):
        return
    study.set_user_attr("first points enqueued", True)
    for number, values in enumerate(chain(known, first_points(choice_lists, n_vertices, alone))):
        if number >= share:
            break
        study.enqueue_trial(dict(values), skip_if_exists=True)


def completed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the finished trials in the order of their numbers."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def run_trials(
    study: optuna.Study,
    evaluate: Evaluate,
    choice_lists: Mapping[str, Sequence],
    n_vertices: int,
    total: int,
    *,
    finished: Callable[[optuna.Study], None] | None = None,
) -> None:
    """Run trials until the study holds `total` in all, this and any other worker's counted.

    evaluate(choice, coordinates) -> MAP@k. A trial that asks for a place beyond the total is given back unused; one
    left running by a killed worker of this machine is closed first. Interrupted, the trial in hand is closed.
    """
    close_abandoned(study)
    while True:
        if len(study.get_trials(deepcopy=False, states=COUNTED)) >= total:
            if len(completed(study)) >= total or not _others_running(study):
                return
            threading.Event().wait(
                0.2
            )  # another worker holds the last places: wait whether it gives one back
            close_abandoned(study)
            continue
        trial = study.ask()
        trial.set_user_attr("worker", worker_name())
        trial.set_user_attr("started", time.time())
        if _place(study, trial.number) >= total:
            study.tell(trial, state=TrialState.FAIL)  # another worker took the last place
            continue
        try:
            values = suggest(trial, choice_lists, n_vertices)
            value = evaluate(*point_of(values, choice_lists))
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        study.tell(trial, value, skip_if_finished=True)
        if finished is not None:
            finished(study)


def worker_name() -> str:
    """Return host, process and its start, which together name one worker."""
    return f"{socket.gethostname()}:{os.getpid()}:{_process_start(os.getpid())}"


def _process_start(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return "?"


def _place(study: optuna.Study, number: int) -> int:
    """Return how many counted trials stand before trial `number`."""
    return sum(trial.number < number for trial in study.get_trials(deepcopy=False, states=COUNTED))


def _others_running(study: optuna.Study) -> bool:
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def close_abandoned(study: optuna.Study) -> int:
    """Mark as failed the running trials whose worker, a process of this machine, is gone; returns their number.

    Those of other machines are closed after GRACE_S.
    """
    closed = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, rest = str(trial.user_attrs.get("worker", "")).partition(":")
        pid, _, started = rest.partition(":")
        if host == socket.gethostname() and pid.isdigit():
            gone = not Path(f"/proc/{pid}").exists() or _process_start(int(pid)) != started
        else:
            gone = time.time() - float(trial.user_attrs.get("started", time.time())) > GRACE_S
        if gone:
            with contextlib.suppress(
                optuna.exceptions.UpdateFinishedTrialError
            ):  # another worker closed it just now
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                closed += 1
    return closed
