"""What simulated photos cost beside the extraction of 520,000 images: forward passes and seconds.

python -m tests.benchmarks.simulation_cost [--rounds N]

Images of ../shared/grocery, decoded, described and pooled as `extract` does, and photos simulated of them likewise, in
turns; the median of the rounds, by the clock and by processor time. Simulation alone: decoding with it less decoding
without it, in one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from competition.configuration import Simulate, load_configuration
from competition.configured import split_images
from competition.images import ImageSet
from competition.simulated_split import simulated_images
from features.dumps.layout import configured_targets
from features.extraction.engine import Engine
from features.extraction.estimate import seconds_an_image
from features.extraction.settings import fixed_settings
from features.images.decoding import decode
from tests.grocery import SHARED, grocery_configuration

GALLERY, PHOTOS = 520_000, 16_000
VGG = """
[competition]
name = "cost"
gallery = "{shared}/grocery/gallery"

[[backbone]]
model = "vgg16"
weights = "{shared}/weights/{weights}"
image_size = 224
layers = ["conv4_3", "conv5_3"]
pooling = ["rmac"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(
        "network | ms an image | ms a photo | of which simulation | passes | seconds (clock) | seconds (processor)"
    )
    weights = next(path.name for path in (SHARED / "weights").glob("vgg16*") if path.suffix != ".md")
    for text in (grocery_configuration(SHARED, ["rmac"]), VGG.format(shared=SHARED, weights=weights)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.toml"
            path.write_text(text)
            measure(load_configuration(path, work=Path(folder) / "work"), rounds)


def measure(configuration, rounds: int) -> None:
    backbone = configuration.backbones[0]
    engine = Engine(backbone, fixed_settings(configuration.competition.work / "s.json", backbone, "cpu"))
    images = split_images(configuration, "gallery")
    images = images.rows(range(0, len(images), 7))  # of all classes
    photos = simulated_images(images, Simulate(images=len(images), views=1))
    targets = configured_targets(configuration, backbone, configuration.competition.work)
    found: dict[str, list[float]] = {"image": [], "photo": [], "image cpu": [], "photo cpu": []}
    for _ in range(rounds):
        for name, rows in (("image", images), ("photo", photos)):
            for clock, suffix in ((time.perf_counter, ""), (time.process_time, " cpu")):
                found[name + suffix].append(seconds_an_image(engine, rows, targets, len(rows), clock))
    middle = {name: statistics.median(values) for name, values in found.items()}
    shares = [PHOTOS * middle["photo" + kind] / (GALLERY * middle["image" + kind]) for kind in ("", " cpu")]
    print(
        f"{backbone.model} {backbone.image_size} px | {1e3 * middle['image']:.1f} | {1e3 * middle['photo']:.1f} | "
        f"{1e3 * simulation_s(engine, photos):.1f} | {PHOTOS / GALLERY:.1%} | {shares[0]:.1%} | {shares[1]:.1%}",
        flush=True,
    )


def simulation_s(engine: Engine, photos: ImageSet) -> float:
    taken = 0.0
    for row in range(min(60, len(photos))):
        data = Path(photos.paths[row]).read_bytes()
        for view, sign in ((None, -1), (photos.seeds[row], 1)):
            start = time.thread_time()
            decode(data, engine.sizings, view)
            taken += sign * (time.thread_time() - start)
    return taken / min(60, len(photos))


if __name__ == "__main__":
    main()
