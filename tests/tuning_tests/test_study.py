"""The study: what is tried first, that totals hold across processes and kills, that a resumed study goes on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from competition.errors import ConfigurationError
from tuning import study as studies
from tuning.samplers import SAMPLERS, make_sampler

CHOICES = {"net.pooling": ("spoc", "fcrow")}
N_VERTICES = 3


def evaluate(choice, coordinates):
    """A figure with its maximum on the edge between vertices 0 and 2, for one of the choices."""
    return 1 - abs(coordinates[0] - 0.5) - coordinates[1] - (0.1 if choice["net.pooling"] == "fcrow" else 0)


def work_on(storage: str | None, work: str, total: int, worker: int, pause_s: float = 0.0) -> None:
    study = studies.open_study(
        studies.open_storage(storage, Path(work)), "s", make_sampler("random", 0, 0, worker)
    )

    def slowly(choice, coordinates):
        time.sleep(pause_s)
        return evaluate(choice, coordinates)

    studies.run_trials(study, slowly, CHOICES, N_VERTICES, total)


def open_again(storage: str | None, work: Path):
    return studies.open_study(studies.open_storage(storage, work), "s", make_sampler("random", 0, 0))


def run(work: Path, total: int, sampler: str = "random"):
    study = open_again(None, work)
    study.sampler = make_sampler(sampler, 0, len(study.trials))
    studies.enqueue_first_points(study, CHOICES, N_VERTICES, share=8)
    studies.run_trials(study, evaluate, CHOICES, N_VERTICES, total)
    return studies.completed(study)


def test_vertices_centroid_and_faces_come_first():
    points = [studies.point_of(values, CHOICES) for values in studies.first_points(CHOICES, 3)]
    coordinates = [tuple(np.round(point, 12)) for _, point in points]
    third = round(1 / 3, 12)
    assert coordinates[0] == (third, third, third)
    assert coordinates[1:4] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert points[4][0] == {"net.pooling": "fcrow"} and coordinates[4] == coordinates[0]
    assert coordinates[5:] == [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]


def test_each_chain_stands_alone_under_every_combination_of_its_own_choices():
    lists = {"net.pooling": ("spoc", "fcrow"), "parts.count": (10, 50), "parts.dim": (64, 128, 256)}
    alone = [(1, ("net.pooling",)), (2, ("parts.count", "parts.dim"))]
    points = [studies.point_of(values, lists) for values in studies.first_points(lists, 3, alone)]
    parts_alone = {
        (choice["parts.count"], choice["parts.dim"]) for choice, at in points if tuple(at) == (0, 0, 1)
    }
    assert parts_alone == {(count, dim) for count in (10, 50) for dim in (64, 128, 256)}
    assert {choice["net.pooling"] for choice, at in points if tuple(at) == (0, 1, 0)} == {"spoc", "fcrow"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_total_counts_and_a_resumed_study_does_not_repeat_itself(tmp_path, sampler):
    assert len(run(tmp_path, 15, sampler)) == 15
    assert len(run(tmp_path, 15, sampler)) == 15
    trials = run(tmp_path, 40, sampler)
    assert len(trials) == 40
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 40
    # the optimum lies on an edge that only the named points hit
    assert max(trial.value for trial in trials) == 1.0


def test_an_unknown_sampler_names_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'tpe'"):
        make_sampler("tpee", 0, 0)


def test_an_error_in_a_trial_closes_it_and_is_raised(tmp_path):
    study = open_again(None, tmp_path)

    def broken(choice, coordinates):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studies.run_trials(study, broken, CHOICES, N_VERTICES, 5)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]
    assert len(run(tmp_path, 5)) == 5


def start(storage, work, total, worker, pause_s=0.0):
    process = multiprocessing.get_context("spawn").Process(
        target=work_on, args=(storage, str(work), total, worker, pause_s)
    )
    process.start()
    return process


def several_workers_and_a_kill(storage: str | None, work: Path) -> None:
    """Four workers share a study of 30; one is killed inside a trial: it costs that trial, the total is kept."""
    first = open_again(storage, work)  # made before they race
    victim = start(storage, work, 30, 1, pause_s=300)
    deadline = time.monotonic() + 120
    while not first.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        assert time.monotonic() < deadline and victim.is_alive()
        time.sleep(0.1)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    workers = [start(storage, work, 30, number, pause_s=0.01) for number in (2, 3, 4)]
    for worker in workers:
        worker.join(180)
        assert worker.exitcode == 0
    states = [trial.state for trial in open_again(storage, work).trials]
    assert states.count(TrialState.COMPLETE) == 30
    assert states.count(TrialState.RUNNING) == 0 and states.count(TrialState.FAIL) >= 1


def test_several_processes_share_a_journal(tmp_path):
    several_workers_and_a_kill(None, tmp_path)


@pytest.fixture
def postgresql(tmp_path):
    """A PostgreSQL server of the test's own on the loopback address; its URL."""
    folders = (
        sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if Path("/usr/lib/postgresql").exists()
        else []
    )
    initdb = shutil.which("initdb") or (str(folders[-1]) if folders else None)
    if initdb is None:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    data, programs = tmp_path / "data", Path(initdb).resolve().parent
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and runuser is not here")
        for folder in [tmp_path, *tmp_path.parents[:3]]:
            folder.chmod(folder.stat().st_mode | 0o011)
        shutil.chown(tmp_path, "nobody")
        as_user = ["runuser", "-u", "nobody", "--"]
    port = 54000 + os.getpid() % 1000
    subprocess.run(
        [*as_user, initdb, "-D", data, "-A", "trust", "-U", "top7"], check=True, capture_output=True
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={tmp_path}"
    subprocess.run(
        [*as_user, programs / "pg_ctl", "-D", data, "-w", "-o", options, "-l", tmp_path / "log", "start"],
        check=True,
        capture_output=True,
    )
    try:
        yield f"postgresql+psycopg2://top7@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(
            [*as_user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], capture_output=True
        )


def test_several_processes_share_a_postgresql_study(postgresql, tmp_path):
    several_workers_and_a_kill(postgresql, tmp_path)


def test_a_storage_that_cannot_be_opened_is_one_line_without_the_password(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        studies.open_storage("postgresql+psycopg2://me:secret@127.0.0.1:9/none", tmp_path)
    assert "cannot be opened" in str(raised.value) and "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
