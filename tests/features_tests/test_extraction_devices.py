"""Which device a worker process takes; no device is needed to try it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from features.extraction import device_claims, workers
from features.extraction.device_claims import device_names

CLAIMING = """
import runpy, sys
from pathlib import Path
claim = runpy.run_path(sys.argv[1])["claim"]  # without torch, which the package imports
print(claim(sys.argv[3].split(","), Path(sys.argv[2])), flush=True)
sys.stdin.readline()
"""


@pytest.fixture()
def process(tmp_path):
    """Starts a process that claims one of the named devices; returns the process and the place it got."""
    started = []

    def start(names: str = "0,1") -> tuple[subprocess.Popen, int]:
        found = subprocess.Popen(
            [sys.executable, "-c", CLAIMING, device_claims.__file__, str(tmp_path), names],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(found)
        return found, int(found.stdout.readline())

    yield start
    for found in started:
        found.kill()
        found.communicate()


def test_one_process_a_device_and_a_dead_ones_device_is_free(process):
    first, second = process(), process()
    assert (first[1], second[1]) == (0, 1)
    first[0].kill()
    first[0].wait()
    assert process()[1] == 0, "not by process number: a replaced worker takes the device that was left"


def test_processes_that_number_the_devices_otherwise_take_different_ones(process):
    assert process("0,1")[1] == 0 and process("0,1")[1] == 1
    first, second = process("1,0"), process("1,0")
    assert (first[1], second[1]) == (0, 1), "device 1, then device 0, each for the second time"


def test_a_process_that_sees_the_devices_in_another_order(process):
    assert process("1,0")[1] == 0 and process("0,1")[1] == 0, "device 1, and device 0"


def test_more_processes_than_devices_share_evenly(process):
    assert sorted(process()[1] for _ in range(4)) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "count, visible, names",
    [
        (2, None, ["0", "1"]),
        (2, "", ["0", "1"]),
        (2, "1,0", ["1", "0"]),
        (2, "GPU-aa/b, GPU-cc", ["GPU-aa_b", "GPU-cc"]),
        (2, "0,1,-1,2", ["0", "1"]),
        (3, "0", ["0", "1", "2"]),
    ],
)
def test_names_of_devices(count, visible, names):
    assert device_names(count, visible) == names


def test_a_worker_runs_its_engine_on_the_device_it_claimed(tiny, monkeypatch, tmp_path):
    configuration, chosen = tiny.configured(), []
    settings = type("Settings", (), {"device": "cuda"})()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(
        workers, "Engine", lambda *arguments, **options: type("Engine", (), {"part_models": {}})()
    )
    monkeypatch.setattr(device_claims.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device_claims.own_device.cache_clear()
    backbone = configuration.backbones[0]
    for cores in (1, 2):  # a second backbone or other settings stay on the device
        workers._engine(workers.Assignment(backbone, settings, cores, (), ()))
    device_claims.own_device.cache_clear()
    assert chosen == [0, 0] and len(list(tmp_path.glob("top7-devices-*/*.lock"))) == 1
    while device_claims._held:
        device_claims._held.pop().release()
    workers._engines.clear()
