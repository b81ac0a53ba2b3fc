"""Images per second of extraction beside the bare forward pass and the bare decoding on the same machine.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/extraction_speed.py --images FOLDER [--config FILE]
    [--made-up]

The bare forward is the same features_only model with inputs in memory: the faster of contiguous and
channels-last, at its best batch. The bound is 1 / (t_forward + t_decode): on a CPU both use the same cores.
Times are wall-clock; beside them stands the processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch: threads that wait must not spin beside decoding

import numpy as np
import torch
from PIL import Image

from competition.configuration import Competition, Configuration, Tuning, load_configuration
from competition.images import ImageSet, list_images
from features.backbones import create_network
from features.decoding import decode
from features.extraction import extract
from features.extraction.engine import Engine
from features.extraction.settings import available_cores, fixed_settings

POOLINGS = ("spoc", "mac", "gem", "crow", "fcrow", "rmac")
REPEATS = 3


class Stopwatch:
    """The smallest wall-clock and processor seconds of several runs of a block."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = float("inf")

    def run(self, work) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall_s = min(self.wall_s, time.perf_counter() - wall)
        self.cpu_s = min(self.cpu_s, time.process_time() - cpu)

    def an_image(self, images: int) -> tuple[float, float]:
        return 1000 * self.wall_s / images, 1000 * self.cpu_s / images


def bare_forward(backbone, threads: int) -> tuple[float, float, str]:
    """(wall ms, processor ms, which) an image of the network alone."""
    torch.set_num_threads(threads)
    network = create_network(backbone)
    best = (float("inf"), float("inf"), "")
    for layout in (torch.contiguous_format, torch.channels_last):
        network.module.to(memory_format=layout)
        for rows in (1, 2, 4, 8, 16):
            images = torch.randn(rows, 3, backbone.image_size, backbone.image_size).contiguous(
                memory_format=layout
            )
            watch = Stopwatch()
            with torch.inference_mode():
                network.forward(images)
                for _ in range(REPEATS):
                    watch.run(lambda: network.forward(images))
            wall_ms, cpu_ms = watch.an_image(rows)
            best = min(best, (wall_ms, cpu_ms, f"{str(layout).split('.')[1]}, batch {rows}"))
    return best


def bare_decode(images: ImageSet, sizings: tuple, threads: int) -> tuple[float, float]:
    """(wall ms, processor ms) an image of reading, decoding and resizing with all threads."""

    def one(path: Path) -> None:
        decode(path.read_bytes(), sizings)

    watch = Stopwatch()
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            watch.run(lambda: list(pool.map(one, images.paths)))
    return watch.an_image(len(images))


def whole_extraction(configuration: Configuration, images: int) -> tuple[float, float, int]:
    """(wall ms, processor ms) an image of the pass itself and bytes written; set-up and planning are left
    out.
    """
    from features.extraction import running

    watch, written = Stopwatch(), 0
    run_pass = running.run_pass

    def timed(*arguments, **options):
        nonlocal written
        watch.run(lambda: reports.append(run_pass(*arguments, **options)))
        written = reports[-1].bytes_written
        return reports[-1]

    running.run_pass = timed
    for _ in range(REPEATS):
        reports: list = []
        shutil.rmtree(Path(configuration.competition.work) / "dumps" / "gallery", ignore_errors=True)
        extract(configuration, splits=("gallery",), device="cpu", progress=False)
    running.run_pass = run_pass
    return *watch.an_image(images), written


def made_up(folder: Path, count: int) -> Path:
    """JPEGs of 1000 × 1000 px with detail at every scale."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        layers = [
            Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).resize((1000, 1000))
            for side in (8, 60, 400)
        ]
        mean = np.mean([np.asarray(layer, dtype=np.float32) for layer in layers], axis=0)
        Image.fromarray(mean.astype(np.uint8)).save(folder / f"m{number:05d}.jpg", quality=90)
    return folder


def measure(name: str, backbone, folder: Path, threads: int) -> dict:
    images = list_images(folder)
    with tempfile.TemporaryDirectory() as work:
        competition = Competition("speed", folder, work=Path(work))
        configuration = Configuration(Path("speed"), competition, (backbone,), (), Tuning())
        engine = Engine(
            backbone, fixed_settings(Path(work) / "settings.json", backbone, "cpu", threads=threads)
        )
        forward_ms, forward_cpu_ms, how = bare_forward(backbone, threads)
        decode_ms, decode_cpu_ms = bare_decode(images, engine.sizings(), threads)
        extract_ms, extract_cpu_ms, written = whole_extraction(configuration, len(images))
        descriptors = sum(
            p.stat().st_size
            for p in (Path(work) / "dumps" / "gallery").glob(f"{backbone.name}*.npy")
            if "norms" not in p.name and "sums" not in p.name
        )
    bound_ms, bound_cpu_ms = forward_ms + decode_ms, forward_cpu_ms + decode_cpu_ms
    return {
        "what": name,
        "images": len(images),
        "forward_ms": forward_ms,
        "forward": how,
        "decode_ms": decode_ms,
        "extract_ms": extract_ms,
        "share_of_bound": bound_ms / extract_ms,
        "forward_cpu_ms": forward_cpu_ms,
        "decode_cpu_ms": decode_cpu_ms,
        "extract_cpu_ms": extract_cpu_ms,
        "share_of_bound_cpu": bound_cpu_ms / extract_cpu_ms,
        "bytes_written": written,
        "bytes_of_descriptors": descriptors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--config", type=Path, help="configuration whose first backbone is measured (default: embedded)"
    )
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=96, help="images of the folder that are used")
    parser.add_argument("--made-up", action="store_true", help="measure made-up 1000-px JPEGs too")
    parser.add_argument("--threads", type=int, default=available_cores())
    options = parser.parse_args()
    source = options.config or ROOT / "competition" / "mini"
    if options.config is None:
        from competition.configuration import Backbone

        backbone = Backbone("top7_vgg16_quarter", (0, 1, 2, 3, 4), "top7_vgg16_quarter")
    else:
        backbone = load_configuration(source).backbones[0]
    backbone = replace(backbone, pooling=POOLINGS, parts=(), image_size=options.image_size, resize="squash")
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "images"
        chosen.mkdir()
        for path in sorted(p for p in options.images.rglob("*") if p.is_file())[: options.count]:
            shutil.copy(path, chosen)
        tell(measure(f"{backbone.name}, {options.images.name}", backbone, chosen, options.threads))
        if options.made_up:
            large = made_up(Path(folder) / "large", min(192, options.count))
            tell(measure(f"{backbone.name}, made-up 1000 px", backbone, large, options.threads))


def tell(row: dict) -> None:
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
