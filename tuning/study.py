"""The Optuna study: which points are tried first, how a trial becomes weights, and how the total is respected.

The region is a simplex, but Optuna has no simplex parameters: a trial holds one u in (0, 1] a vertex, and
-log(u), normalised, are its barycentric coordinates (uniform for uniform u; u = 1 is exactly zero, so
vertices and faces, where the optimum can lie, are tried by name first).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, combinations, count
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from competition.messages import log
from tuning.region import face_uniforms, uniform_coordinates
from tuning.samplers import make_sampler
from tuning.space import Space

SMALLEST_U = 1e-9
COORDINATE = re.compile(r"u\d+")  # a trial's parameter
GRACE_S = 3600  # a trial on another machine that runs for longer is given up: its worker is gone
PRECISIONS = "average precisions"  # of every labelled query: the attribute of a trial that keeps them
CROSS_VALIDATED = "cross-validated"  # the attribute of a study that keeps what cross-validation found
COUNTED = (TrialState.COMPLETE, TrialState.RUNNING)
Parameters = dict[str, object]
Evaluate = Callable[[Parameters, np.ndarray], float]  # choice, coordinates -> MAP@k
Noted = Callable[[Parameters, np.ndarray], Mapping[str, object]]  # the same -> what the trial keeps


@dataclass(frozen=True)
class TrialPlan:
    """How trials come about, in the whole study and in each fold: first named points, then the sampler's.

    total: trials in all; known: parameters tried before all others.
    """

    space: Space
    total: int
    seed: int
    sampler: str
    known: tuple[Parameters, ...] = ()

    @property
    def places(self) -> int:
        """How many of the study's first places are those of named points: a third."""
        return max(1, self.total // 3)

    def first(self, places: int) -> list[Parameters]:
        """Return so many distinct named points, or all there are."""
        distinct: dict[str, Parameters] = {}
        for point in chain(self.known, first_points(self.space)):
            if len(distinct) >= places:
                break
            distinct.setdefault(json.dumps(point, sort_keys=True), dict(point))
        return list(distinct.values())


def open_study(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """Return the study `name` (maximising), made if it is not there; each draw has a sampler of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the progress bar says how the trials go
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def first_points(space: Space) -> Iterator[Parameters]:
    """Yield the named points to try first, as parameters: the best known places before any sampling.

    The first values of every choice: the centroid and all vertices; then each chain alone under every
    combination of the choices that make it (their number adds up over chains, where all combinations would
    multiply); then each other single choice at the centroid; then the centroids of the edges and of the
    larger faces.
    """

    def point(choice: Mapping[str, object], face: Sequence[int] | None = None) -> Parameters:
        number = space.n_vertices(choice)
        return parameters(choice, face_uniforms(range(number) if face is None else face, number))

    default, n_vertices = space.default, space.n_vertices(space.default)
    yield point(default)
    if n_vertices > 1:
        yield from (point(default, (vertex,)) for vertex in range(n_vertices))
    yield from (point(choice, (vertex,)) for choice, vertex in space.chains_alone())
    for name, values in space.choice_lists.items():
        yield from (point({**default, name: value}) for value in values[1:])
    for size in [2, *range(n_vertices - 1, 2, -1)]:
        if size < n_vertices:
            yield from (point(default, face) for face in combinations(range(n_vertices), size))


def parameters(choice: Mapping[str, object], uniforms: np.ndarray) -> Parameters:
    """Return the trial parameters of a choice and one u a vertex."""
    return {**choice, **{f"u{vertex}": float(u) for vertex, u in enumerate(uniforms)}}


def point_of(values: Mapping[str, object]) -> tuple[Parameters, np.ndarray]:
    """Return (choice, barycentric coordinates) of a trial's parameters."""
    names = coordinate_names(values)
    uniforms = np.array([values[name] for name in names], dtype=np.float64)
    return {name: value for name, value in values.items() if name not in names}, uniform_coordinates(uniforms)


def coordinate_names(values: Iterable[str]) -> list[str]:
    """Return the names of a trial's coordinates, in order."""
    return [f"u{vertex}" for vertex in range(sum(bool(COORDINATE.fullmatch(name)) for name in values))]


def suggest(trial: optuna.Trial, space: Space) -> Parameters:
    """Let the sampler fill in a trial's parameters: the choices, then as many coordinates as they have vertices."""
    values: Parameters = {
        name: trial.suggest_categorical(name, list(known)) for name, known in space.choice_lists.items()
    }
    number = space.n_vertices(values)
    uniforms = np.array([trial.suggest_float(f"u{vertex}", SMALLEST_U, 1.0) for vertex in range(number)])
    if number and (uniforms == 1.0).all():
        uniforms = face_uniforms(range(number), number)  # no direction at all: the centroid
    return parameters(values, uniforms)


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials in the order of their numbers."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def run_trials(
    study: optuna.Study,
    plan: TrialPlan,
    evaluate: Evaluate,
    *,
    noted: Noted = lambda choice, coordinates: {},
    finished: Callable[[optuna.Study], object] = lambda study: None,
) -> None:
    """Run trials until the study holds `plan.total` in all, this and any other worker's counted.

    Each trial has a place, which alone decides its parameters: the first places are those of the named
    points, at the others the sampler draws. The place of a trial that failed or whose worker is gone is free
    again, so an interrupted study ends like any other.
    """
    if "named places" not in study.user_attrs:  # what the study was first to hold decides
        study.set_user_attr("named places", plan.places)
    named = plan.first(study.user_attrs["named places"])
    close_abandoned(study, own=True)
    waited_for: set[int] = set()
    while (place := _free_place(study, plan.total, waited_for)) is not None:
        fixed = named[place] if place < len(named) else {}
        trial_id = _new_trial(study, place, fixed, plan.space.choice_lists)
        number = study._storage.get_trial(trial_id).number
        try:
            counted = study.get_trials(deepcopy=False, states=COUNTED)
            if any(_place(trial) == place and trial.number < number for trial in counted):
                study.tell(number, state=TrialState.FAIL)  # another worker was first there
                continue
            if not fixed:
                study.sampler = make_sampler(plan.sampler, plan.seed, place - len(named))
                fixed = suggest(optuna.Trial(study, trial_id), plan.space)
            point = point_of(fixed)
            value = evaluate(*point)
            for key, attribute in noted(*point).items():
                study._storage.set_trial_user_attr(trial_id, key, attribute)
        except BaseException:
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            raise
        study.tell(number, value, skip_if_finished=True)
        finished(study)


def _free_place(study: optuna.Study, total: int, waited_for: set[int]) -> int | None:
    """Return the first place that no trial has; where all are taken, wait for the running ones; None: all are done."""
    while True:
        counted = study.get_trials(deepcopy=False, states=COUNTED)
        if len(counted) < total:
            taken = {_place(trial) for trial in counted}
            return next(place for place in count() if place not in taken)
        running = [trial for trial in counted if trial.state == TrialState.RUNNING]
        if not running or len(counted) - len(running) >= total:
            return None
        for trial in running:
            if trial.number not in waited_for:
                waited_for.add(trial.number)
                host, pid, _ = _worker(trial)
                until = f"until {_given_up_at(trial):%Y-%m-%d %H:%M} at the latest"
                until = "until it ends" if host == socket.gethostname() else until
                log.info(
                    f"waiting for trial {trial.number}, which process {pid} of host {host} began at "
                    f"{trial.datetime_start:%H:%M}, {until}"
                )
        threading.Event().wait(0.2)
        close_abandoned(study)


def _new_trial(
    study: optuna.Study, place: int, fixed: Mapping[str, object], choice_lists: Mapping[str, Sequence]
) -> int:
    """Note a running trial with its place, its worker and the parameters known already, all at once; its id."""
    distributions: dict[str, BaseDistribution] = {name: FloatDistribution(SMALLEST_U, 1.0) for name in fixed}
    for name in choice_lists.keys() & fixed.keys():
        distributions[name] = CategoricalDistribution(list(choice_lists[name]))
    known: dict[str, Any] = {"params": dict(fixed), "distributions": distributions}
    attributes = {"place": place, "worker": worker_name()}
    made = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attributes, **known)
    return study._storage.create_new_trial(study._study_id, made)


def _place(trial: FrozenTrial) -> int:
    return trial.user_attrs.get("place", trial.number)


def worker_name() -> str:
    """Return host, process and its start, which together name one worker."""
    return f"{socket.gethostname()}:{os.getpid()}:{_process_start(os.getpid())}"


def _process_start(pid: int) -> float | None:
    """Return the seconds from the machine's start to that of a process, whatever the clock says; None: it is gone."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # dead, and nobody has asked how it ended
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None


def _given_up_at(trial: FrozenTrial) -> datetime:
    return (trial.datetime_start or datetime.now()) + timedelta(seconds=GRACE_S)


def _worker(trial: FrozenTrial) -> list[str]:
    """Host, process and start of the worker of a trial."""
    return trial.user_attrs["worker"].split(":")


def close_abandoned(study: optuna.Study, *, own: bool = False) -> int:
    """Mark as failed the running trials whose worker is gone, and this process's own where `own`; their number.

    A process of this machine can be looked for; the trials of others are closed GRACE_S after they began.
    """
    closed = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, pid, started = _worker(trial)
        if host == socket.gethostname():
            gone = str(_process_start(int(pid))) != started or own and int(pid) == os.getpid()
        else:
            gone = datetime.now() > _given_up_at(trial)
        if gone:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker closed it
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                closed += 1
    return closed
