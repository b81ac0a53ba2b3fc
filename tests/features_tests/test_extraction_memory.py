"""run.sh has the allocator keep the memory of one batch for the next, by settings that the process starts with."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import resource, threading
import numpy as np

def rounds(count):
    for _ in range(count):
        blocks = [np.ones(20 << 20, dtype=np.uint8) for _ in range(3)]

def faults(count):
    thread = threading.Thread(target=rounds, args=(count,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
print(faults(20))
"""


def page_faults(settings: dict[str, str]) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=environment | settings,
    )
    return int(done.stdout)


def test_a_batch_gets_the_memory_of_the_last():
    settings = dict(re.findall(r"\b(MALLOC_\w+)=(\d+)", (ROOT / "run.sh").read_text(encoding="utf-8")))
    assert set(settings) == {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX"}
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        pytest.skip("not the GNU C library's allocator")
    assert page_faults(settings) < 200 < 5000 < page_faults({})  # 20 rounds of 60 MiB are 307,200 pages
