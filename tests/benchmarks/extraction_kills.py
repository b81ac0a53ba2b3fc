"""Twenty SIGKILLs at random moments of the work: what each cost, and whether the dumps come out the same.

A moment is drawn from as long as an undisturbed pass takes; the start of the process is not counted to it.

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
WINDOW_ROWS = 16  # 256 in earnest

CHILD = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from competition.configuration import Backbone, Competition, Configuration, Simulate, Tuning
from features.extraction import backbone_pass, extract, settings
running = sys.modules["features.extraction.extract"]
settings.WINDOW_ROWS, backbone_pass.COMMIT_EVERY_S = {rows}, {commit_s}
model, layers, poolings = "top7_vgg16_quarter", (0, 1, 2, 3, 4), ("spoc", "fcrow")
backbone = Backbone(model, layers, "embedded", image_size=128, pooling=poolings)
competition = Competition("kills", Path({folder!r}), work=Path({work!r}))
configuration = Configuration(Path("kills"), competition, (backbone,), (), Tuning(), Simulate(images=0))
run_pass = running.run_pass
def timed(*arguments, **options):
    Path({work!r}, "begun").touch()
    print("begun", flush=True)
    start = time.perf_counter()
    limit = run_pass(*arguments, **options)
    Path({work!r}, "pass_s").write_text(str(time.perf_counter() - start))
    return limit
running.run_pass = timed
report = extract(configuration, device="cpu", progress=False)
print(report.images)
"""


def contents(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((work / "dumps" / "gallery").iterdir())}


def ran_images(process: subprocess.Popen, timeout_s: float | None = None) -> int:
    """Wait until the process ends, at most so long after its pass began; how many images it ran."""
    line = process.stdout.readline()
    if line == "begun\n":  # the network is built; where all rows were there, no pass begins
        line, _ = process.communicate(timeout=timeout_s)
    return int(line)


def different(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def done_windows(work: Path) -> int:
    return sum(path.read_bytes().count(b'{"window":') for path in work.rglob("*.journal"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit-s", type=float, default=0.5, help="seconds between commits (15 in earnest)")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}

    def child(work: Path) -> subprocess.Popen:
        code = CHILD.format(
            root=str(ROOT),
            folder=str(options.images),
            work=str(work),
            commit_s=options.commit_s,
            rows=WINDOW_ROWS,
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
        process = child(undisturbed)
        images = ran_images(process)
        whole_s = float((undisturbed / "pass_s").read_text())
        expected = contents(undisturbed)
        (work / "dumps").mkdir(parents=True)
        shutil.copytree(undisturbed / "dumps" / "settings", work / "dumps" / "settings")
        kept, lost_s, finished = [], [], 0
        start = time.perf_counter()
        while len(kept) < options.kills:
            process = child(work)
            try:
                ran_images(process, moments.uniform(0, whole_s))
                finished += 1
                if other := different(contents(work), expected):
                    sys.exit(
                        f"an interrupted extraction ended in other bytes: {other}; after {len(kept)} kills"
                    )
                shutil.rmtree(work / "dumps" / "gallery")  # finished before its moment: begin again
                continue
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if contents(work) == expected:  # between the last row and the end of the process
                lost_s.append(0.0)
                kept.append(-(-images // WINDOW_ROWS))
                continue
            journals = [path.stat().st_mtime for path in work.rglob("*.journal")]
            resumed = (work / "begun").stat().st_mtime
            lost_s.append(round(time.time() - max([resumed, *journals]), 2))
            kept.append(done_windows(work))
        ran = ran_images(child(work))
        result = {
            "images": images,
            "undisturbed_pass_s": round(whole_s, 1),
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
