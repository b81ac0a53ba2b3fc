"""Windows computed by other processes: twins, lost workers, the same bytes as one process gives."""

from __future__ import annotations

import os
import shutil

import pytest

from features.extraction import backbone_pass, workers
from tests.features_tests.extraction_competition import counted


def both(tiny):
    """A finished extraction by one process, and a configuration to do the same with its settings."""
    whole, configuration = tiny.configured("whole"), tiny.configured()
    tiny.run(whole)
    shutil.copytree(tiny.folder / "whole" / "dumps" / "settings", tiny.folder / "work" / "dumps" / "settings")
    return whole, configuration


def shards_here(configuration, engine, targets, widths, jobs, cluster, shards):
    """What worker processes do, one window after the other in this one."""
    for shard in shards:
        yield workers.compute_shard(
            configuration, engine.backbone, engine.settings, 1, shard, targets, widths
        )


def test_processes_run_a_content_once_whichever_window_holds_it(tiny, monkeypatch):
    for twin, original in (("g001", "g000"), ("g077", "g002"), ("g088", "g002"), ("g099", "g040")):
        shutil.copy(tiny.image(original), tiny.image(twin))
    tiny.image("g090").write_bytes(b"")
    whole, configuration = both(tiny)
    run_images = counted(monkeypatch)
    monkeypatch.setattr(workers, "_sent", shards_here)
    assert tiny.run(configuration, jobs=2).images == 26
    assert sum(run_images) == 21
    assert tiny.contents(configuration) == tiny.contents(whole)
    shutil.copy(tiny.image("g004"), tiny.image("g100"))  # an old content in a gallery that grew
    run_images.clear()
    assert tiny.run(configuration, jobs=2).images == 1 and not sum(run_images)
    tiny.run(whole)
    assert tiny.contents(configuration) == tiny.contents(whole) and not sum(run_images)


def test_a_lost_worker_costs_the_windows_under_way(tiny, monkeypatch, capsys):
    whole, configuration = both(tiny)
    run_images = counted(monkeypatch)

    class TerminatedWorkerError(Exception):
        pass

    def dying(*arguments):
        """Two windows go out; the first comes back, then the process of the second dies."""
        *others, shards = arguments
        for shard in shards:
            second = next(shards, None)
            yield from shards_here(*others, [shard])
            if second is not None:
                raise TerminatedWorkerError

    monkeypatch.setattr(workers, "_sent", dying)
    assert tiny.run(configuration, jobs=2).images == 21 and sum(run_images) == 21
    assert capsys.readouterr().err.count("a worker was lost") == 2  # of three windows
    assert tiny.contents(configuration) == tiny.contents(whole)


def test_workers_that_always_die_end_the_run(tiny, monkeypatch):
    class TerminatedWorkerError(Exception):
        pass

    def dead(*arguments):
        next(arguments[-1])
        raise TerminatedWorkerError
        yield

    monkeypatch.setattr(workers, "_sent", dead)
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
        write, killed = backbone_pass._Writer.put, []

        def killing(self, result):
            if not killed:
                killed.append(os.kill(next(iter(cluster.workers.values())).pid, 9))
            return write(self, result)

        monkeypatch.setattr(backbone_pass._Writer, "put", killing)
        assert tiny.run(configuration, cluster=cluster.scheduler_address).images == 21
    assert killed and tiny.contents(configuration) == tiny.contents(whole)
