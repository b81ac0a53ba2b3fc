"""Images per second of extraction beside the bare forward pass and the bare decoding on the same machine.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/extraction_speed.py --images FOLDER [--config FILE]
    [--made-up] [--rounds 5]

The bare forward is the same features_only model with inputs in memory: the faster of contiguous and
channels-last, at its best batch. The bound is 1 / (t_forward + t_decode): on a CPU both use the same cores.
Each round runs the forward, the decoding and the extraction of all images in turn, so that what else the
machine does meets all three alike; the share of the bound is the median of the rounds' own shares, its range
stands beside it. Times are wall-clock medians, of the images of a run; beside them stands the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch: threads that wait must not spin beside decoding

import numpy as np
import torch
from PIL import Image

from competition.configuration import (
    Backbone,
    Competition,
    Configuration,
    Simulate,
    Tuning,
    load_configuration,
)
from competition.images import ImageSet, list_images
from features.extraction import backbone_pass, extract
from features.extraction.engine import Engine
from features.extraction.settings import available_cores, fixed_settings
from features.images.decoding import decode
from features.networks.backbones import create_network

POOLINGS = ("spoc", "mac", "gem", "crow", "fcrow", "rmac")
TRIED_BATCHES = (1, 2, 4, 8, 16)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall-clock, processor) seconds that `work` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class BareForward:
    """The network alone, in its fastest layout and batch of those tried."""

    def __init__(self, backbone: Backbone, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.network = create_network(backbone)
        side = backbone.image_size
        tried = []
        for layout in (torch.contiguous_format, torch.channels_last):
            self.network.module.to(memory_format=layout)
            for rows in TRIED_BATCHES:
                images = torch.randn(rows, 3, side, side).contiguous(memory_format=layout)
                self._forward(images)
                least = min(seconds(lambda: self._forward(images))[0] for _ in range(5))
                tried.append((least / rows, layout, images))
        _, self.layout, self.images = min(tried, key=lambda one: one[0])
        self.network.module.to(memory_format=self.layout)
        self.how = f"{str(self.layout).split('.')[1]}, batch {len(self.images)}"

    def _forward(self, images: torch.Tensor) -> None:
        with torch.inference_mode():
            self.network.forward(images)

    def run(self, images: int) -> None:
        """At least that many images."""
        torch.set_num_threads(self.threads)
        for _ in range(-(-images // len(self.images))):
            self._forward(self.images)

    def ran(self, images: int) -> int:
        """How many `run` runs."""
        return -(-images // len(self.images)) * len(self.images)


def bare_decode(images: ImageSet, sizings: tuple, threads: int) -> None:
    """Read, decode and resize with all threads."""

    def one(path: str) -> None:
        decode(Path(path).read_bytes(), sizings)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, images.paths):
            pass


class Extraction:
    """Extractions of the gallery from nothing; only the pass itself is timed, set-up and planning are not."""

    def __init__(self, configuration: Configuration, device: str = "cpu") -> None:
        self.configuration, self.device, self.written = configuration, device, 0
        self.took = (0.0, 0.0)

    def run(self) -> tuple[float, float]:
        run_pass = backbone_pass.run_pass

        def timed(*arguments, **options):
            limits = []
            self.took = seconds(lambda: limits.append(run_pass(*arguments, **options)))
            return limits[0]

        dumps = Path(self.configuration.competition.work) / "dumps" / "gallery"
        shutil.rmtree(dumps, ignore_errors=True)
        with mock.patch("features.extraction.extract.run_pass", timed):
            report = extract(self.configuration, splits=("gallery",), device=self.device, progress=False)
        self.written = report.bytes_written
        return self.took


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


def measure(name: str, backbone: Backbone, folder: Path, threads: int, rounds: int) -> dict:
    images = list_images(folder)
    count = len(images)
    with tempfile.TemporaryDirectory() as work:
        competition = Competition("speed", folder, work=Path(work))
        extraction = Extraction(
            Configuration(Path("speed"), competition, (backbone,), (), Tuning(), Simulate(images=0))
        )
        sizings = Engine(
            backbone, fixed_settings(Path(work) / "settings.json", backbone, "cpu", threads=threads)
        ).sizings
        bare = BareForward(backbone, threads)
        extraction.run()  # warm
        found = []
        for _ in range(rounds):
            forward = np.array(seconds(lambda: bare.run(count))) / bare.ran(count)
            decoding = np.array(seconds(lambda: bare_decode(images, sizings, threads))) / count
            found.append((forward, decoding, np.array(extraction.run()) / count))
        descriptors = sum(
            p.stat().st_size
            for p in (Path(work) / "dumps" / "gallery").glob(f"{backbone.name}*.npy")
            if "norms" not in p.name and "sums" not in p.name
        )
    took_ms = 1000 * np.array(found)  # (rounds, forward | decoding | extraction, wall | processor)
    shares = (took_ms[:, 0] + took_ms[:, 1]) / took_ms[:, 2]
    median = np.median(took_ms, axis=0)
    return {
        "what": name,
        "images": count,
        "rounds": rounds,
        "forward": bare.how,
        "forward_ms": median[0, 0],
        "decode_ms": median[1, 0],
        "extract_ms": median[2, 0],
        "share_of_bound": np.median(shares[:, 0]),
        "least_share": shares[:, 0].min(),
        "greatest_share": shares[:, 0].max(),
        "forward_cpu_ms": median[0, 1],
        "decode_cpu_ms": median[1, 1],
        "extract_cpu_ms": median[2, 1],
        "share_of_bound_cpu": np.median(shares[:, 1]),
        "bytes_written": extraction.written,
        "bytes_of_descriptors": descriptors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument(
        "--config", type=Path, help="configuration whose first backbone is measured (default: embedded)"
    )
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=576, help="images that are used of each kind, at most")
    parser.add_argument("--made-up", action="store_true", help="measure made-up 1000-px JPEGs too")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each in turn")
    parser.add_argument("--threads", type=int, default=available_cores())
    options = parser.parse_args()
    source = options.config or ROOT / "competition" / "mini"
    if options.config is None:
        backbone = Backbone("top7_vgg16_quarter", (0, 1, 2, 3, 4), "top7_vgg16_quarter")
    else:
        backbone = load_configuration(source).backbones[0]
    backbone = replace(backbone, pooling=POOLINGS, parts=(), image_size=options.image_size, resize="squash")
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "images"
        chosen.mkdir()
        for path in sorted(p for p in options.images.rglob("*") if p.is_file())[: options.count]:
            shutil.copy(path, chosen)
        tell(
            measure(
                f"{backbone.name}, {options.images.name}", backbone, chosen, options.threads, options.rounds
            )
        )
        if options.made_up:
            large = made_up(Path(folder) / "large", options.count)
            tell(
                measure(f"{backbone.name}, made-up 1000 px", backbone, large, options.threads, options.rounds)
            )


def tell(row: dict) -> None:
    rounded = {
        key: round(float(value), 3) if isinstance(value, float) else value for key, value in row.items()
    }
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
