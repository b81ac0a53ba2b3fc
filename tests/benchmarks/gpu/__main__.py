"""The acceptance on a GPU: what only a card can show, in one table and one JSON object.

    python -m tests.benchmarks.gpu [--device cuda|cpu] [--small] [--minutes 8] [--sections NAME …] [--out FILE]

Nothing is read but what the project ships and the installed packages; images and vectors are made here, in a temporary
folder. Each section runs in a process of its own with a time of its own: what ran out of time, or out of the clock of
the whole, is skipped and says so; one that dies takes no other with it. It ends with 1 where a goal is missed.

`--device cpu --small` takes about a minute and tries everything that needs no card; where a card would fail for want of
memory a fake does so, and the row says it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from tests.benchmarks.gpu.rows import MISSED, Row, Task, as_table
from tests.benchmarks.gpu.sections import SECTIONS, section


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small networks, images and galleries")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of the whole; what is left then is dropped"
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="file for the JSON object, beside stdout")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device: --device cpu --small tries what needs none")
    begin = time.monotonic()
    os.environ |= {"TQDM_DISABLE": "1"} | {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    found: list[tuple[str, Row]] = []
    with tempfile.TemporaryDirectory(prefix="top7-gpu-") as folder:
        for name in options.sections:
            until = min(begin + 60 * options.minutes, time.monotonic() + SECTIONS[name])
            task = Task(options.device, options.small, Path(folder) / name, until)
            for row in section(name, task):
                found.append((name, row))
                print(
                    f"{time.monotonic() - begin:5.0f} s {name}: {row.what}: {row.figure} {row.verdict}",
                    file=sys.stderr,
                )
    result = {
        **machine(options.device),
        "small": options.small,
        "seconds": round(time.monotonic() - begin, 1),
        "missed": sum(row.verdict == MISSED for _, row in found),
        "rows": [{"section": name, **asdict(row)} for name, row in found],
    }
    print(as_table(found))
    print(text := json.dumps(result))
    if options.out:
        options.out.write_text(text + "\n")
    sys.exit(1 if result["missed"] else 0)


def machine(device: str) -> dict:
    """What it ran on, and when."""
    root = Path(__file__).resolve().parents[3]
    commit = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "CPU",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
