"""What `predict` takes from a cold start beside its parts: imports, the forward pass and the decoding of the same images.

    OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.predict_start [--images N] [--config FILE | --bundle DIR]

A bundle (of the embedded competition unless told otherwise) answers N images in a fresh process, after the pages of the
bundle and of the images were given back (POSIX_FADV_DONTNEED; those of Python and its packages stay in memory, so that
the first start after booting also reads some hundred MB of libraries). Beside it, each in seconds of wall clock and of
processor time, the smallest of --repeats runs:

imports: a fresh process that imports every module the command ended with, and no more; of them torch alone;
forward: the network on those images, decoded already, in this warm process: the same batches, threads and formats;
decode: reading, decoding and resizing them with as many threads as the command.

Physical limit: forward plus decode, both on the same cores; nothing is read of the gallery but the recipe's dumps, once.
Importing torch is the floor under any answer from it; what is left is starting Python, timm, building the network twice
(batches side by side), pooling, part detectors, ranking and writing the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as run.sh sets it

import numpy as np  # noqa: E402
import torch  # noqa: E402

from competition.configuration import Configuration  # noqa: E402
from competition.images import ImageSet, list_images  # noqa: E402
from features.dumps.layout import backbone_recipe  # noqa: E402
from features.extraction.engine import Engine  # noqa: E402
from features.extraction.settings import choose_device, fixed_settings, settings_path  # noqa: E402
from features.images.decode_ahead import read_ahead  # noqa: E402
from submissions.outcome import MINI_WORK, mini_configuration  # noqa: E402
from submissions.predicting import (
    needed,  # noqa: E402
    open_bundle,  # noqa: E402
)

LISTING = (
    "import sys; from submissions.__main__ import main; code = main(sys.argv[2:]); names = list(sys.modules); "
    "open(sys.argv[1], 'w').write(chr(10).join(names)); sys.exit(code)"
)
IMPORTING = (
    "import importlib, sys\n"
    "for name in open(sys.argv[1]).read().split():\n"
    "    if name not in sys.modules and not name.startswith('__'):\n"
    "        try:\n"
    "            importlib.import_module(name)\n"
    "        except ImportError:\n"
    "            pass\n"
)


def drop_pages(folder: Path) -> None:
    """Give back the page cache of every file under `folder`; written pages first go to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def smallest(
    run: Callable[[], None], repeats: int, clock: Callable[[], float], before=lambda: None
) -> tuple[float, float]:
    """(wall seconds, processor seconds by `clock`), the smallest of each over the repeats; `before` is not counted."""
    found = []
    for _ in range(repeats):
        before()
        wall, cpu = time.perf_counter(), clock()
        run()
        found.append((time.perf_counter() - wall, clock() - cpu))
    return tuple(map(min, zip(*found)))


def of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process(*arguments: object) -> None:
    """Run Python to its end; its own words are shown where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-P", *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    if finished.returncode:
        sys.exit(finished.stderr)


def forward(engine: Engine, views: list[list[np.ndarray]]) -> None:
    """The network alone on decoded images (views of each), batches side by side as the engine computes them."""
    groups: dict[tuple, list[np.ndarray]] = {}
    batches = []
    for pixels in (pixels for image in views for pixels in image):
        waiting = groups.setdefault(pixels.shape, [])
        waiting.append(pixels)
        if len(waiting) == engine.settings.batch_rows:
            batches.append(np.stack(groups.pop(pixels.shape)))
    batches += [np.stack(waiting) for waiting in groups.values()]
    flips = (False, True) if engine.backbone.flip else (False,)
    threads = engine.settings.batch_threads or engine.settings.threads
    with ThreadPoolExecutor(engine.at_once, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        list(
            pool.map(
                lambda task: [maps.shape for maps in engine.maps(task[0], flip=task[1])],
                [(batch, flip) for batch in batches for flip in flips],
            )
        )


def parts(configuration: Configuration, images: ImageSet, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds of the forward pass and of decoding, summed over the backbones."""
    totals = {"forward": np.zeros(2), "decode": np.zeros(2)}
    for backbone in configuration.backbones:
        path = settings_path(
            configuration.competition.work, backbone, backbone_recipe(configuration, backbone)
        )
        engine = Engine(backbone, fixed_settings(path, backbone, choose_device("auto")))
        threads = engine.decode_threads
        views: list[list[np.ndarray]] = []

        def decode() -> None:
            views[:] = [
                picture.pixels
                for picture in read_ahead(
                    images,
                    range(len(images)),
                    engine.sizings,
                    workers=threads,
                    ahead=max(2 * threads, 4 * engine.settings.batch_rows),
                )
                if picture.pixels is not None
            ]

        totals["decode"] += smallest(decode, repeats, time.process_time)
        forward(engine, views)  # warm
        totals["forward"] += smallest(lambda: forward(engine, views), repeats, time.process_time)
    return {name: tuple(values) for name, values in totals.items()}


def made_bundle(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """(a bundle, a folder of images to answer) of --config, or of the embedded competition, extracted where needed."""
    arguments = ["--work", str(options.work)] + (["--config", str(options.config)] if options.config else [])
    if options.config:
        from competition.configuration import load_configuration

        configuration = load_configuration(options.config, work=options.work)
    else:
        configuration = mini_configuration(options.work)
    process("-m", "submissions", "extract", *arguments)
    process("-m", "submissions", "bundle", *arguments, "--recipe", options.recipe, "--out", folder / "bundle")
    return folder / "bundle", Path(configuration.competition.test or configuration.competition.validation)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100, metavar="N")
    parser.add_argument("--config", type=Path, help="a configuration to bundle (the embedded competition)")
    parser.add_argument(
        "--work", type=Path, default=MINI_WORK, help="its work folder; dumps that are there are kept"
    )
    parser.add_argument("--recipe", default="top7")
    parser.add_argument("--bundle", type=Path, help="a bundle that is there already, with --queries")
    parser.add_argument("--queries", type=Path, help="a folder of images to answer (the competition's own)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.bundle and not options.queries:
        parser.error("--bundle needs --queries")
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary).resolve()
        bundle, source = (options.bundle, options.queries) if options.bundle else made_bundle(options, folder)
        chosen = folder / "images"
        chosen.mkdir()
        for path in list_images(options.queries or source).paths[: options.images]:
            shutil.copy(path, chosen)
        images = list_images(chosen)
        command = ["predict", chosen, folder / "answer.csv", "--bundle", bundle]

        def cold() -> None:
            for dropped in (bundle, chosen):
                drop_pages(dropped)

        process("-c", LISTING, folder / "modules", *command)
        rows = {
            "predict, cold": smallest(
                lambda: process("-m", "submissions", *command), options.repeats, of_children, cold
            ),
            "predict, warm": smallest(
                lambda: process("-m", "submissions", *command), options.repeats, of_children
            ),
            "imports": smallest(
                lambda: process("-c", IMPORTING, folder / "modules"), options.repeats, of_children
            ),
            "torch alone": smallest(lambda: process("-c", "import torch"), options.repeats, of_children),
        }
        rows |= parts(needed(*open_bundle(bundle))[0], images, options.repeats)
    report(rows, len(images), bundle)


def report(rows: dict[str, tuple[float, float]], images: int, bundle: Path) -> None:
    whole = rows["predict, cold"]
    limit = [rows["forward"][axis] + rows["decode"][axis] for axis in (0, 1)]
    print(f"{images} images; load at the end {os.getloadavg()[0]:.1f}")
    print("| what | wall, s | share | processor, s | share |\n| --- | --- | --- | --- | --- |")
    rest = [whole[axis] - rows["imports"][axis] - limit[axis] for axis in (0, 1)]
    for name, values in {
        **rows,
        "limit: forward + decode": limit,
        "predict, cold, less imports and limit": rest,
    }.items():
        wall, cpu = values
        print(f"| {name} | {wall:.2f} | {wall / whole[0]:.2f} | {cpu:.2f} | {cpu / whole[1]:.2f} |")
    print(json.dumps({name: [round(float(value), 3) for value in values] for name, values in rows.items()}))


if __name__ == "__main__":
    main()
