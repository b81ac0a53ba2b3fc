"""The whole road at half a million images: every command as a user runs it, with what it takes beside its limit.

    python -m tests.benchmarks.half_million [--images 520000] [--work DIR] [--trials 200] [--kills] [--commands NAME …]

Draws distinct 64-px JPEGs (seeded: two pictures of a product in the gallery, 100 validation and 100 test photos of
products), then runs init, extract, verify, duplicates, tune, tune --recipe top7, submit, check, compare, report, bundle,
predict, clean as processes of their own. --work keeps all of it and goes on where an earlier call ended; without it a
temporary folder in the current one is removed afterwards.

For each command: seconds, processor seconds, highest anonymous memory (the whole process tree, sampled), highest resident
memory (mapped files included, which the system takes back when it needs them), and what it left on the disk. Limit: the
forward pass and decoding (bare, one batch of 8 after another), the bytes that have to be read (at the rate of CRC-32 from
the page cache) and the operations (at the rate of the bare float32 product), each measured at the start by one thread's
processor seconds, which other work on the machine lengthens least, and summed.

--kills walks the road once more in a second work folder. There each command is killed (SIGKILL, the whole tree) after
half the seconds it took, run again, and its files compared with the first walk's: descriptors, recipes and submissions
byte for byte.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[2]
QUERIES = 100  # of validation, and of test
SIDE = 64
SAMPLED_S = 0.1
DIMENSIONS = 16 + 32 + 64 + 128 + 128  # of the embedded network's five layers
GOALS = {"submit": 60, "predict": 60, "check": 60, "tune": 300}  # seconds
ANONYMOUS_GIB = 4.0
CONFIGURATION = """\
[competition]
name       = "half-million"
gallery    = "images/gallery"
validation = "images/validation"
labels     = "images/validation.csv"
test       = "images/test"

[[backbone]]
model      = "top7_vgg16_quarter"
image_size = 32
layers     = [0, 1, 2, 3, 4]
pooling    = ["rmac", "spoc-centre", "fcrow"]
parts      = { layer = 4, counts = [25, 50], dims = [64, 128], exponents = [0.5, 1.0] }
"""


def product(number: int) -> Image.Image:
    """A product's look: coarse coloured patches, of its number alone."""
    patches = np.random.default_rng((520, number)).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((96, 96), Image.Resampling.BICUBIC)


def picture(look: Image.Image, seed: tuple[int, int], photo: bool) -> bytes:
    """A JPEG of a part of the product; a photo shows it elsewhere, in another light and with noise."""
    draws = np.random.default_rng(seed)
    side = int(draws.integers(56, 72) if photo else draws.integers(76, 96))
    left, top = draws.integers(0, 97 - side, 2)
    found = look.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(found, dtype=np.float64)
    if photo:
        pixels = pixels * draws.uniform(0.7, 1.2, 3) + draws.normal(0, 10, pixels.shape)
    else:
        pixels = pixels + draws.normal(0, 2, (SIDE, SIDE, 1))
    data = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=75 if photo else 85)
    return data.getvalue()


def draw_gallery(folder: Path, start: int, stop: int) -> None:
    """Write the pictures of the gallery from start to stop; those that are there stay."""
    for number in range(start, stop):
        path = folder / f"{number // 4096:04d}" / f"n{number:07d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(product(number // 2), (521, number), False))


def draw(folder: Path, count: int) -> None:
    """Draw the competition: gallery, validation and test photos, labels; `.drawn`, written last, says of how many."""
    mark = folder / ".drawn"
    if mark.exists() and mark.read_text() == str(count):
        return
    starts = range(0, count, 4096)
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        list(
            pool.map(
                draw_gallery,
                [folder / "gallery"] * len(starts),
                starts,
                [min(start + 4096, count) for start in starts],
            )
        )
    asked = np.random.default_rng(522).permutation(count // 2)[: 2 * QUERIES]
    lines = []
    for place, number in enumerate(map(int, asked)):
        split = "validation" if place < QUERIES else "test"
        name = f"{split[0]}{place % QUERIES:06d}"
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{name}.jpg").write_bytes(picture(product(number), (523, number), True))
        if split == "validation":
            lines.append(f"{name},n{2 * number:07d},n{2 * number + 1:07d}\n")
    (folder / "validation.csv").write_text("".join(lines))
    mark.write_text(str(count))


@dataclass
class Taken:
    """What one command took: wall and processor seconds, highest anonymous and resident bytes, its exit code."""

    seconds: float
    processor_s: float
    anonymous: int
    resident: int
    code: int


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """Anonymous and resident bytes of a process and all it started."""
    anonymous = resident = 0
    for each in [process, *process.children(recursive=True)]:
        with (
            contextlib.suppress(OSError, psutil.Error),
            open(f"/proc/{each.pid}/status", encoding="ascii") as file,
        ):
            for line in file:
                if line.startswith("RssAnon"):
                    anonymous += int(line.split()[1]) * 1024
                elif line.startswith("VmRSS"):
                    resident += int(line.split()[1]) * 1024
    return anonymous, resident


def run(words: list[str], log: Path, kill_after_s: float | None = None) -> Taken:
    """Run one command in `log`'s folder, sampling its memory; kill_after_s: then end the whole tree by SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    used = os.times()
    begin, anonymous, resident = time.perf_counter(), 0, 0
    with log.open("ab") as file:
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "submissions", *words],
            cwd=log.parent,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        watched = psutil.Process(started.pid)
        while started.poll() is None:
            found = memory_of(watched)
            anonymous, resident = max(anonymous, found[0]), max(resident, found[1])
            if kill_after_s is not None and time.perf_counter() - begin > kill_after_s:
                os.killpg(started.pid, signal.SIGKILL)
            time.sleep(SAMPLED_S)
    now = os.times()
    processor_s = now.children_user + now.children_system - used.children_user - used.children_system
    return Taken(time.perf_counter() - begin, processor_s, anonymous, resident, started.returncode)


def on_disk(folder: Path) -> int:
    """Return the bytes of the files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rates() -> dict[str, float]:
    """Return processor seconds of an image decoded and passed forward, a byte summed and an operation, one thread each."""
    import timm
    import torch

    import features.networks.mini_backbone.model  # noqa: F401  registers the embedded network

    network = timm.create_model("top7_vgg16_quarter", features_only=True).eval()
    batch = torch.rand(8, 3, 32, 32)
    left, right = (np.random.default_rng(0).random((size, 512), dtype=np.float32) for size in (1024, 4096))
    data, jpeg = np.random.default_rng(0).bytes(1 << 26), picture(product(0), (521, 0), False)

    def least(work: Callable[[], object]) -> float:
        times = []
        for _ in range(9):
            begin = time.process_time()
            work()
            times.append(time.process_time() - begin)
        return min(times)

    torch.set_num_threads(1)
    with torch.inference_mode(), threadpool_limits(1):
        forward = least(lambda: network(batch)) / len(batch)
        product_s = least(lambda: left @ right.T)
    return {
        "image": forward + least(lambda: np.asarray(Image.open(io.BytesIO(jpeg)))),
        "byte": least(lambda: zlib.crc32(data)) / len(data),
        "operation": product_s / (2 * left.size * len(right)),
    }


@dataclass(frozen=True)
class Command:
    """words: as typed, WORK standing for the work folder; limit: of a gallery of n images, in images passed, bytes read
    and operations done at the least; 0 where nothing but listing files is to be done.
    """

    words: str
    images: Callable[[int], float] = lambda n: 0
    bytes: Callable[[int], float] = lambda n: 0
    operations: Callable[[int], float] = lambda n: 0


POOLED = 3 * DIMENSIONS + 2 * 128  # values of all dumps an image
TOP7 = 2 * (64 + 128 + 128)  # values of recipe top7's components here, before whitening and after
SEARCH = 2 * QUERIES * TOP7
COMMANDS = {
    "init": Command("init images --out init.toml"),
    "extract": Command("extract", images=lambda n: n + 16_000 + 2 * QUERIES),
    "verify": Command("verify", bytes=lambda n: 4 * POOLED * n),
    "duplicates": Command("duplicates", bytes=lambda n: 32 * n),
    "tune": Command("tune --trials {trials} --certify 10", operations=lambda n: 2 * QUERIES * POOLED * n),
    "tune top7": Command(
        "tune --recipe top7 --trials {top7_trials}", operations=lambda n: (SEARCH + 2 * 128 * TOP7) * n
    ),
    "submit": Command("submit", operations=lambda n: SEARCH * n),
    "check": Command("check WORK/sent.csv"),
    "compare": Command(
        "compare top7 top7_augmented",  # the graph of what is whitened: one score serves both rows of a pair
        operations=lambda n: (TOP7 / 2 * n + 2 * SEARCH + 2 * 128 * TOP7) * n,
    ),
    "report": Command("report", operations=lambda n: SEARCH * n),
    "bundle": Command("bundle --out WORK/bundle", bytes=lambda n: 4 * TOP7 * n),
    "predict": Command(
        "predict images/test WORK/answer.csv --bundle WORK/bundle",
        images=lambda n: QUERIES,
        operations=lambda n: SEARCH * n,
    ),
    "clean": Command("clean"),
}


def words_of(name: str, work: str, options: argparse.Namespace) -> list[str]:
    """Return a command's words in full, for the work folder `work`."""
    text = COMMANDS[name].words.format(trials=options.trials, top7_trials=options.top7_trials)
    words = [word.replace("WORK", work) for word in text.split()]
    if name == "submit":
        words += ["--out", f"{work}/sent.csv"]
    if name == "init":
        return words
    return [*words, "--work", work] + ([] if name == "predict" else ["--config", "half-million.toml"])


def results(work: Path) -> dict[str, str]:
    """Return digests of what has to be equal after a kill: descriptors, recipes, and lists sent."""
    found = {}
    for pattern in ("dumps/**/*.npy", "recipes/*.json", "*.csv"):
        for path in sorted(work.glob(pattern)):
            with path.open("rb") as file:
                found[str(path.relative_to(work))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def walk(folder: Path, options: argparse.Namespace) -> None:
    """Run what is not done yet, a row printed and kept (road.json) after each command."""
    road = folder / "road.json"
    rows: dict[str, dict] = json.loads(road.read_text()) if road.exists() else {}
    cost, work = rates(), folder / "work"
    print(
        f"{options.images} images; an image {cost['image'] * 1e3:.2f} ms, {1e-9 / cost['byte']:.1f} GB/s summed, "
        f"{1e-9 / cost['operation']:.0f} GFLOP/s; load {os.getloadavg()[0]:.1f}\n"
        "| command | wall, s | processor, s | limit, processor s | anonymous, GiB | resident, GiB | left on disk, MB | caches, MB | killed and resumed | |\n"
        "|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name in options.commands or COMMANDS:
        if name not in rows:
            rows[name] = step(name, folder, work, options)
            n, command = options.images, COMMANDS[name]
            rows[name]["limit"] = (
                command.images(n) * cost["image"]
                + command.bytes(n) * cost["byte"]
                + command.operations(n) * cost["operation"]
            )
            road.write_text(json.dumps(rows, indent=1))
        print(line(name, rows[name]), flush=True)
        if rows[name]["code"]:
            sys.exit(f"{name} ended with {rows[name]['code']}: see {folder / 'road.log'}")
    print(
        f"\ncaches: candidates and what steps keep; dumps of recipe top7's components: "
        f"{4 * TOP7 * options.images / 1e6:.0f} MB"
    )


def step(name: str, folder: Path, work: Path, options: argparse.Namespace) -> dict:
    """Run one command; with --kills also killed half way, in the second work folder, and again."""
    log = folder / "road.log"
    before = on_disk(work)
    taken = run(words_of(name, "work", options), log)
    caches = sum(on_disk(work / part) for part in ("candidates", "ranking"))
    row = {**vars(taken), "disk": on_disk(work) - before, "caches": caches, "killed": ""}
    if options.kills and not taken.code and name != "init":
        killed = run(words_of(name, "killed", options), log, kill_after_s=taken.seconds / 2)
        resumed = run(words_of(name, "killed", options), log)
        first, second = results(work), results(folder / "killed")
        differing = [file for file in first if second.get(file) != first[file]]
        row["killed"] = (
            f"after {killed.seconds:.1f} s ({'killed' if killed.code == -signal.SIGKILL else 'it had ended'}), then "
            f"{resumed.seconds:.1f} s, {'equal' if not differing else 'other ' + ', '.join(differing[:3])}"
        )
    return row


def line(name: str, row: dict) -> str:
    """Return a command's row of the table; what misses its goal is named at its end."""
    missed = [f"over {GOALS[name]} s"] if row["seconds"] > GOALS.get(name, np.inf) else []
    if row["anonymous"] > ANONYMOUS_GIB * 2**30:
        missed.append(f"over {ANONYMOUS_GIB:.0f} GiB")
    return (
        f"| {name} | {row['seconds']:.1f} | {row['processor_s']:.1f} | {row['limit']:.1f} | {row['anonymous'] / 2**30:.2f} | "
        f"{row['resident'] / 2**30:.2f} | {row['disk'] / 1e6:.0f} | {row.get('caches', 0) / 1e6:.0f} | {row['killed']} | {', '.join(missed)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=520_000)
    parser.add_argument("--work", type=Path, metavar="DIR", help="kept, and gone on with")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--top7-trials", type=int, default=30)
    parser.add_argument(
        "--commands", nargs="+", choices=COMMANDS, metavar="NAME", help=f"of {', '.join(COMMANDS)}"
    )
    parser.add_argument(
        "--kills", action="store_true", help="each command once more, killed half way and run again"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=".", prefix="half-million-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        draw(folder / "images", options.images)
        print(f"drawn in {time.perf_counter() - begin:.0f} s, {on_disk(folder / 'images') / 1e6:.0f} MB")
        (folder / "half-million.toml").write_text(CONFIGURATION)
        walk(folder.resolve(), options)


if __name__ == "__main__":
    main()
