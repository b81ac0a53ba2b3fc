"""Twenty SIGKILLs at random moments: what each cost, and whether the dumps come out the same.

python tests/benchmarks/extraction_kills.py --images FOLDER [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from competition.configuration import Backbone, Competition, Configuration, Tuning
from features.extraction import extract, passes, settings
settings.WINDOW_ROWS, passes.COMMIT_EVERY_S = 16, {commit_s}
model, layers, poolings = "top7_vgg16_quarter", (0, 1, 2, 3, 4), ("spoc", "fcrow")
backbone = Backbone(model, layers, "embedded", image_size=64, pooling=poolings)
competition = Competition("kills", Path({folder!r}), work=Path({work!r}))
configuration = Configuration(Path("kills"), competition, (backbone,), (), Tuning())
report = extract(configuration, device="cpu", progress=False)
print(report.images)
"""


def contents(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((work / "dumps" / "gallery").iterdir())}


def done_windows(work: Path) -> int:
    return sum(path.read_bytes().count(b'{"window":') for path in work.rglob("*.journal"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit-s", type=float, default=0.5, help="seconds between commits (15 in earnest)")
    parser.add_argument("--pass-s", type=float, default=3, help="a kill falls within so many seconds of work")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}

    def child(work: Path) -> subprocess.Popen:
        code = CHILD.format(
            root=str(ROOT), folder=str(options.images), work=str(work), commit_s=options.commit_s
        )
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    with tempfile.TemporaryDirectory() as base:
        undisturbed, work = Path(base) / "undisturbed", Path(base) / "work"
        start = time.perf_counter()
        process = child(undisturbed)
        images = int(process.communicate()[0])
        whole_s = time.perf_counter() - start
        expected = contents(undisturbed)
        (work / "dumps").mkdir(parents=True)
        shutil.copytree(undisturbed / "dumps" / "settings", work / "dumps" / "settings")
        kept, lost_s, finished = [], [], 0
        start = time.perf_counter()
        while len(kept) < options.kills:
            process = child(work)
            while process.poll() is None and not list(work.rglob("*.journal")):
                time.sleep(0.01)  # the network is being built
            resumed = time.time()
            try:
                process.communicate(timeout=moments.uniform(0, options.pass_s))
                finished += 1
                assert contents(work) == expected, "an interrupted extraction ended in other bytes"
                shutil.rmtree(work / "dumps" / "gallery")  # finished before its moment: begin again
                continue
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            journals = [path.stat().st_mtime for path in work.rglob("*.journal")]
            lost_s.append(round(time.time() - max([resumed, *journals]), 2))
            kept.append(done_windows(work))
        process = child(work)
        ran = int(process.communicate()[0])
        result = {
            "images": images,
            "undisturbed_s": round(whole_s, 1),
            "kills": len(kept),
            "finished_in_between": finished,
            "with_kills_s": round(time.perf_counter() - start, 1),
            "windows_kept_after_each_kill": kept,
            "seconds_of_work_lost_by_each_kill": lost_s,
            "last_run_images": ran,
            "same_bytes": contents(work) == expected,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
