"""Windows computed by other processes: lost workers, the same bytes as one process gives."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Executor, Future
from contextlib import contextmanager

import pytest

from features.extraction import workers
from features.extraction.dump_group import DumpGroup
from tests.features_tests.extraction_competition import counted


def both(tiny):
    """A finished extraction by one process, and a configuration to do the same with its settings."""
    whole, configuration = tiny.configured("whole"), tiny.configured()
    tiny.run(whole)
    shutil.copytree(tiny.folder / "whole" / "dumps" / "settings", tiny.folder / "work" / "dumps" / "settings")
    return whole, configuration


class ProcessesHere(Executor):
    """What worker processes do, one window after the other in this one."""

    def submit(self, call, *arguments):
        done = Future()
        try:
            done.set_result(call(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


def working_here(monkeypatch, executor=ProcessesHere):
    """Windows go to an executor of this process; each time it is opened it is a new one."""

    @contextmanager
    def opened(jobs, cluster, threads):
        yield executor(), 1

    monkeypatch.setattr(workers, "_executor", opened)


def test_processes_run_a_content_once_in_a_window(tiny, monkeypatch):
    for twin, original in (("g001", "g000"), ("g003", "g002"), ("g077", "g002"), ("g099", "g040")):
        shutil.copy(tiny.image(original), tiny.image(twin))
    tiny.image("g090").write_bytes(b"")
    whole, configuration = both(tiny)
    run_images = counted(monkeypatch)
    working_here(monkeypatch)
    assert tiny.run(configuration, jobs=2).images == 26
    assert sum(run_images) == 21 + 2  # g077 and g099 are in other windows than g002 and g040
    assert tiny.contents(configuration) == tiny.contents(whole)
    shutil.copy(tiny.image("g004"), tiny.image("g100"))  # an old content in a gallery that grew
    assert tiny.run(configuration, jobs=2).images == 1
    run_images.clear()
    tiny.run(whole)
    assert tiny.contents(configuration) == tiny.contents(whole) and not sum(run_images)


def test_a_lost_worker_costs_the_windows_under_way(tiny, monkeypatch, capsys):
    whole, configuration = both(tiny)
    run_images = counted(monkeypatch)

    class TerminatedWorkerError(Exception):
        pass

    class Dying(ProcessesHere):
        """The first window comes back, then the process of the second dies."""

        alive = True

        def submit(self, call, *arguments):
            if self.alive:
                self.alive = False
                return super().submit(call, *arguments)
            lost = Future()
            lost.set_exception(TerminatedWorkerError())
            return lost

    working_here(monkeypatch, Dying)
    assert tiny.run(configuration, jobs=2).images == 21 and sum(run_images) == 21
    assert capsys.readouterr().err.count("a worker was lost") == 2  # of three windows
    assert tiny.contents(configuration) == tiny.contents(whole)


def test_workers_that_always_die_end_the_run(tiny, monkeypatch):
    class TerminatedWorkerError(Exception):
        pass

    class Dead(ProcessesHere):
        def submit(self, call, *arguments):
            lost = Future()
            lost.set_exception(TerminatedWorkerError())
            return lost

    working_here(monkeypatch, Dead)
    with pytest.raises(TerminatedWorkerError):
        tiny.run(tiny.configured(), jobs=2)


@pytest.mark.slow
def test_processes_give_what_one_gives(tiny):
    whole, configuration = both(tiny)
    assert tiny.run(configuration, jobs=2).images == 21
    assert tiny.contents(configuration) == tiny.contents(whole)


@pytest.mark.slow
def test_a_dask_cluster_whose_worker_dies_gives_the_same(tiny, monkeypatch):
    distributed = pytest.importorskip("distributed")
    whole, configuration = both(tiny)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        write, killed = DumpGroup.write_window, []

        def killing(self, window):
            if not killed:
                killed.append(os.kill(next(iter(cluster.workers.values())).pid, 9))
            return write(self, window)

        monkeypatch.setattr(DumpGroup, "write_window", killing)
        assert tiny.run(configuration, cluster=cluster.scheduler_address).images == 21
    assert killed and tiny.contents(configuration) == tiny.contents(whole)
