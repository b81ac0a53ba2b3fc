"""Peak memory of extraction at 1,000 and 50,000 small distinct images, with the embedded backbone.

python tests/benchmarks/extraction_memory.py [--counts 1000 50000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import resource, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from competition.configuration import Backbone, Competition, Configuration, Simulate, Tuning
from features.extraction import extract
model, layers, poolings = "top7_vgg16_quarter", (0, 1, 2, 3, 4), ("spoc", "fcrow")
backbone = Backbone(model, layers, "embedded", image_size=32, pooling=poolings)
competition = Competition("memory", Path({folder!r}), work=Path({work!r}))
configuration = Configuration(Path("memory"), competition, (backbone,), (), Tuning(), Simulate(images=0))
report = extract(configuration, device="cpu", progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(report.images, report.seconds, peak, report.bytes_written, time.process_time())
"""


def draw(folder: Path, count: int) -> None:
    """`count` images of 24 × 24 px, no two alike."""
    for number in range(count):
        part = folder / f"{number // 1000:04d}"
        part.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(part / f"n{number:07d}.jpg", quality=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 50_000])
    options = parser.parse_args()
    peaks = []
    for count in options.counts:
        with tempfile.TemporaryDirectory() as base:
            draw(Path(base) / "images", count)
            code = CHILD.format(root=str(ROOT), folder=f"{base}/images", work=f"{base}/work")
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
            start = time.perf_counter()
            found = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
            )
            images, seconds, peak_kib, written, cpu_s = found.stdout.split()
            peaks.append(int(peak_kib))
            print(
                json.dumps(
                    {
                        "images": int(images),
                        "seconds": round(float(seconds), 1),
                        "cpu_s": round(float(cpu_s), 1),
                        "peak_MiB": int(peak_kib) // 1024,
                        "bytes_written": int(written),
                        "wall_s": round(time.perf_counter() - start, 1),
                    }
                ),
                flush=True,
            )
    print(json.dumps({"peak_ratio": round(peaks[-1] / peaks[0], 3)}))


if __name__ == "__main__":
    main()
