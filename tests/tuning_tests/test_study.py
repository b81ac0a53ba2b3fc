"""The study: what is tried first, that totals hold across processes and kills, that a resumed study goes on."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from competition.configuration import load_configuration
from competition.errors import ConfigurationError, Top7Error
from features.components import Component
from features.extraction import extract
from features.recipes.recipe import read_recipe
from tuning import study as studies
from tuning import tune as tune_module
from tuning.samplers import SAMPLERS, make_sampler
from tuning.space import Space
from tuning.storage import Journal, open_storage

CHOICES = {"net.pooling": ("spoc", "fcrow")}
SPACE = Space(CHOICES, lambda choice: tuple(Component(f"{number}", f"{number}") for number in range(3)))


def evaluate(choice, coordinates):
    """A figure with its maximum on the edge between vertices 0 and 2, for one of the choices."""
    return 1 - abs(coordinates[0] - 0.5) - coordinates[1] - (0.1 if choice["net.pooling"] == "fcrow" else 0)


def work_on(storage: str | None, work: str, total: int, sampler: str, pause_s: float = 0.0) -> None:
    study = open_again(storage, Path(work))

    def slowly(choice, coordinates):
        time.sleep(pause_s)
        return evaluate(choice, coordinates)

    run_trials(study, slowly, total, sampler)


def open_again(storage: str | None, work: Path):
    return studies.open_study(open_storage(storage, work), "s")


def run_trials(study, evaluate, total: int, sampler: str = "random") -> None:
    studies.run_trials(study, studies.TrialPlan(SPACE, total, 0, sampler), evaluate)


def run(work: Path, total: int, sampler: str = "random"):
    study = open_again(None, work)
    run_trials(study, evaluate, total, sampler)
    return studies.completed(study)


def test_vertices_centroid_and_faces_come_first():
    points = [studies.point_of(values) for values in studies.first_points(SPACE)]
    coordinates = [tuple(np.round(point, 12)) for _, point in points]
    third = round(1 / 3, 12)
    assert coordinates[0] == (third, third, third)
    assert coordinates[1:4] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert points[4][0] == {"net.pooling": "fcrow"} and coordinates[4] == coordinates[0]
    assert coordinates[5:] == [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]


def test_each_chain_stands_alone_under_every_combination_of_its_own_choices():
    lists = {"net.pooling": ("spoc", "fcrow"), "parts.count": (10, 50), "parts.dim": (64, 128, 256)}
    layers = [Component(f"layer {number}", "net", "net", number, "spoc") for number in range(2)]
    space = Space(lists, lambda choice: (*layers, Component("parts", "parts", "net", 1)))
    points = [studies.point_of(values) for values in studies.first_points(space)]
    parts_alone = {
        (choice["parts.count"], choice["parts.dim"]) for choice, at in points if tuple(at) == (0, 0, 1)
    }
    assert parts_alone == {(count, dim) for count in (10, 50) for dim in (64, 128, 256)}
    assert {choice["net.pooling"] for choice, at in points if tuple(at) == (0, 1, 0)} == {"spoc", "fcrow"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_total_counts_and_a_resumed_study_does_not_repeat_itself(tmp_path, sampler):
    assert len(run(tmp_path, 24, sampler)) == 24
    assert len(run(tmp_path, 24, sampler)) == 24
    trials = run(tmp_path, 40, sampler)
    assert len(trials) == 40
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 40
    # the optimum lies on an edge that only the named points hit
    assert max(trial.value for trial in trials) == 1.0


def test_an_unknown_sampler_names_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean 'tpe'"):
        make_sampler("tpee", 0)


def test_an_error_in_a_trial_closes_it_and_is_raised(tmp_path):
    study = open_again(None, tmp_path)

    def broken(choice, coordinates):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials(study, broken, 5)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]
    assert len(run(tmp_path, 5)) == 5


def start(storage, work, total, sampler="random", pause_s=0.0):
    process = multiprocessing.get_context("spawn").Process(
        target=work_on, args=(storage, str(work), total, sampler, pause_s)
    )
    process.start()
    return process


def several_workers_and_a_kill(storage: str | None, work: Path) -> None:
    """Four workers share a study of 30; one is killed inside a trial: it costs that trial, the total is kept."""
    first = open_again(storage, work)  # made before they race
    victim = start(storage, work, 30, pause_s=300)
    deadline = time.monotonic() + 120
    while not first.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        assert time.monotonic() < deadline and victim.is_alive()
        time.sleep(0.1)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    workers = [start(storage, work, 30, pause_s=0.01) for _ in range(3)]
    for worker in workers:
        worker.join(180)
        assert worker.exitcode == 0
    states = [trial.state for trial in open_again(storage, work).trials]
    assert states.count(TrialState.COMPLETE) == 30
    assert states.count(TrialState.RUNNING) == 0 and states.count(TrialState.FAIL) >= 1


def test_several_processes_share_a_journal(tmp_path):
    several_workers_and_a_kill(None, tmp_path)


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_workers_started_together_never_try_a_point_twice(tmp_path, sampler):
    workers = [start(None, tmp_path, 60, sampler, pause_s=0.005) for _ in range(3)]
    for worker in workers:
        worker.join(180)
        assert worker.exitcode == 0
    trials = studies.completed(open_again(None, tmp_path))
    assert len(trials) == len({tuple(sorted(trial.params.items())) for trial in trials}) == 60
    alone = run(tmp_path / "alone", 60, sampler)  # and they try what one worker would
    assert {tuple(sorted(trial.params.items())) for trial in trials} == {
        tuple(sorted(trial.params.items())) for trial in alone
    }


class Killed(BaseException):
    pass


def killed_at(write: int, work: Path, total: int, sampler: str, monkeypatch) -> None:
    """Run as a process that dies in the `write`-th write of the journal, half a line of it on disk."""
    append, left = Journal.append_logs, iter(range(write))

    def cut_short(journal, logs):
        if next(left, None) is None:
            with open(journal._file_path, "ab") as stream:
                stream.write(b'{"op_code":4,"worker_i')
            raise Killed
        append(journal, logs)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append_logs", cut_short)
        patched.setattr(studies, "worker_name", lambda: f"{socket.gethostname()}:{2**22 + 1}:1.0")
        with pytest.raises(Killed):
            run(work, total, sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_killed_anywhere_ends_with_the_trials_of_an_undisturbed_one(tmp_path, sampler, monkeypatch):
    whole = [(trial.params, trial.value) for trial in run(tmp_path / "whole", 25, sampler)]
    writes = len((tmp_path / "whole" / "study" / "journal.log").read_text().splitlines())
    for write in range(0, writes, 17):
        work = tmp_path / f"{write}"
        killed_at(write, work, 25, sampler, monkeypatch)
        assert [(trial.params, trial.value) for trial in run(work, 25, sampler)] == whole


def test_a_torn_journal_goes_on_and_a_bad_line_is_named(tmp_path):
    run(tmp_path, 10)
    journal = tmp_path / "study" / "journal.log"
    for tail in (b'{"op_code":', b"\0" * 5000, b'{"op_code":4,\n'):
        with open(journal, "ab") as stream:
            stream.write(tail)
        total = len(studies.completed(open_again(None, tmp_path))) + 5
        assert len(run(tmp_path, total)) == total
    lines = journal.read_bytes().splitlines(keepends=True)
    unknown, nested = b'{"op_code":99,"worker_id":"w"}\n', b"[" * 100_000 + b"\n"
    for bad in (b'{"op_code":4,\n', b"{}\n", b"7\n", b"\xff\xfe\n", unknown, nested):
        for at in (0, 20, len(lines) - 2):
            journal.write_bytes(b"".join([*lines[:at], bad, *lines[at + 1 :]]))
            with pytest.raises(Top7Error, match=rf"journal\.log, line {at + 1}: ") as raised:
                run(tmp_path, total)
            assert "\n" not in str(raised.value)
    journal.write_bytes(b"".join(lines[1:]))
    with pytest.raises(Top7Error, match=r"journal\.log, line 1: .*the line that creates its study is gone"):
        run(tmp_path, total)
    journal.write_bytes(b"".join(lines[:20]))  # what the message tells to do
    assert len(run(tmp_path, total)) == total


def test_a_trial_of_a_lost_machine_is_waited_for_aloud_and_given_up(tmp_path, monkeypatch, capsys):
    study = open_again(None, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(studies, "worker_name", lambda: "elsewhere:7:1.0")
        studies._new_trial(study, 3, {}, CHOICES)
    monkeypatch.setattr(studies, "GRACE_S", 1.0)
    assert len(run(tmp_path, 6)) == 6
    said = capsys.readouterr().err
    assert (
        said.count("waiting for trial 0, which process 7 of host elsewhere began at") == 1
        and "until 20" in said
    )


def test_a_worker_that_died_unseen_by_its_parent_is_gone(tmp_path):
    """Killed and not yet waited for, a process is still listed."""
    process = start(None, tmp_path, 5, pause_s=300)
    study, deadline = open_again(None, tmp_path), time.monotonic() + 120
    while not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.1)
    assert studies.close_abandoned(study) == 0
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert studies.close_abandoned(study) == 1
    process.join()


@pytest.mark.parametrize("interrupted", ["cross_validated", "certified"])
def test_what_comes_after_the_trials_may_be_interrupted_the_recipe_is_written(
    tiny_competition, tmp_path, monkeypatch, interrupted
):
    configuration = load_configuration(tiny_competition, work=tmp_path)
    extract(configuration)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_module, interrupted, interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune_module.tune(configuration, trials=5, folds=2, certify_seconds=1.0)
    written = read_recipe(tmp_path / "recipes" / "best.json")
    assert written.scores["public"] > 0 and ("certified bound" in written.provenance) == (
        interrupted == "cross_validated"
    )


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
        open_storage("postgresql+psycopg2://me:secret@127.0.0.1:9/none", tmp_path)
    assert "cannot be opened" in str(raised.value) and "secret" not in str(raised.value)
    for url in (
        "postgresql+psycopg2://127.0.0.1:9/none?user=me&password=secret&sslmode=disable",
        "postgresql+none://127.0.0.1:9/none?password=secret",
        "sqlite:////nowhere/at/all.db?Password=secret",
    ):
        with pytest.raises(ConfigurationError) as raised:
            open_storage(url, tmp_path)
        assert "cannot be opened" in str(raised.value) and "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("sampler", "pooling"), [("tpe", ("fcrow", "head")), ("cmaes", ("head", "fcrow"))])
def test_choices_of_different_component_counts_have_coordinates_of_their_own(
    tiny_competition, tmp_path, sampler, pooling
):
    """`head` is one component, `fcrow` one a layer."""
    text = tiny_competition.read_text().replace('["spoc", "fcrow"]', str(list(pooling)))
    path = tiny_competition.with_name("head.toml")
    path.write_text(f'{text}\nsampler = "{sampler}"\n')
    configuration = load_configuration(path, work=tmp_path)
    extract(configuration)
    tuned = tune_module.tune(configuration, trials=30, folds=0)
    study = studies.open_study(open_storage(None, tmp_path), tuned.recipe.provenance["study"])
    counts, alone = {"fcrow": 4, "head": 2}, []
    for trial in studies.completed(study):
        choice, coordinates = studies.point_of(trial.params)
        assert len(coordinates) == counts[choice["test_resnet.pooling"]]
        if coordinates.max() == 1.0:
            alone.append((choice["test_resnet.pooling"], int(coordinates.argmax())))
    assert {trial.params["test_resnet.pooling"] for trial in studies.completed(study)} == set(counts)
    assert ("fcrow", 2) in alone and ("head", 0) in alone  # the deepest layer, or the one there is
    weights = dict(zip([part.name for part in tuned.recipe.components], tuned.recipe.weights))
    assert sum(weights.values()) == pytest.approx(1.0) and len(weights) in counts.values()
