"""How long an extraction will take: a few images timed, and what part detectors add to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from competition.configuration import Parts
from competition.images import ImageSet
from features.dumps.layout import Target
from features.extraction.batching import compute_window
from features.extraction.decode_ahead import read_ahead
from features.extraction.engine import Engine, dimensions
from features.extraction.learn_parts import layer_maps
from features.parts.aggregation import aggregate, part_weights
from features.parts.projection import IMAGES_A_PASS, Projector, cumulative_grams, solve
from features.parts.remaining import Remaining

TIMED_ROUNDS = 2
TIMED_BATCHES = 3
TIMED_SAMPLE = 2000  # products with larger samples are scaled from this one
TIMED_PROBLEM = 400  # likewise eigenproblems, by n³
TIMED_MAPS = 4

Clock = Callable[[], float]


def seconds_an_image(
    engine: Engine,
    images: ImageSet,
    targets: Sequence[Target],
    most: int,
    clock: Clock = time.perf_counter,
) -> float:
    """Measured on the first images, at most `most`: decode, forward and pooling of a few batches for each
    thread, after a warm-up.
    """
    pooled = [target for target in targets if target.parts is None]
    widths = dimensions(engine, pooled)
    a_round = engine.settings.batch_rows * engine.at_once
    most = min(most, len(images))
    warm = range(a_round if most > a_round else 0)
    timed = range(len(warm), min(most, len(warm) + TIMED_ROUNDS * a_round))
    seconds = 0.0
    for rows in (warm, timed):
        pictures = read_ahead(
            images,
            rows,
            engine.sizings(),
            workers=engine.decode_threads,
            ahead=4 * engine.settings.batch_rows,
        )
        start = clock()
        compute_window(engine, pooled, widths, rows, pictures)
        seconds = clock() - start
    return seconds / max(1, len(timed))


@dataclass(frozen=True)
class PartCosts:
    """Seconds of what a parts table needs: maps_s and aggregate_s an image (of the largest count), product_s an
    image and detector, combine_s an image and count, gram_s a detector, solve_s a count."""

    maps_s: float
    aggregate_s: float
    product_s: float
    combine_s: float
    gram_s: float
    solve_s: float


def projecting_s(costs: PartCosts, counts: Sequence[int], views: int = 1) -> float:
    """Seconds an image for aggregation and projection, beside decode, forward and pooling."""
    return views * (costs.aggregate_s + max(counts) * costs.product_s + len(counts) * costs.combine_s)


def learning_s(costs: PartCosts, parts: Parts, left: Remaining, images: int) -> float:
    """Seconds for what is left to learn from a sample of so many images."""
    aggregated = images * costs.aggregate_s * left.aggregated / max(parts.counts)
    return (
        left.passes * images * costs.maps_s
        + aggregated
        + left.gram_detectors * costs.gram_s
        + left.counts * costs.solve_s
    )


def part_costs(
    engine: Engine,
    parts: Parts,
    images: ImageSet,
    sample_images: int,
    clock: Clock = time.perf_counter,
) -> PartCosts:
    """Measured in a second or so: maps of the first images, random numbers in place of the sample.

    images: some that are like those learnt from; sample_images: how many there will be.
    """
    first = images.rows(range(min(len(images), TIMED_BATCHES * engine.settings.batch_rows)))
    held, start = torch.zeros(0), clock()
    for maps in layer_maps(engine, first, parts.layer):
        held = maps[:TIMED_MAPS] if len(maps) else held
    maps_s = (clock() - start) / max(1, len(first))
    if not len(held):
        return PartCosts(maps_s, 0.0, 0.0, 0.0, 0.0, 0.0)
    channels = held.shape[1]
    detectors = torch.arange(min(channels, max(parts.counts)))  # more of them are refused
    aggregate_s = _seconds(clock, lambda: aggregate(held, part_weights(held, detectors.to(held.device))))
    columns = channels if parts.form == "NxC" else len(detectors)
    n = min(sample_images, TIMED_SAMPLE)
    one, three = (
        _seconds(clock, _projecting(held.device, count, n, columns, max(parts.dims))) / IMAGES_A_PASS
        for count in (1, 3)
    )
    product_s = max(0.0, three - one) / 2
    gram_s = _seconds(clock, lambda: list(cumulative_grams((1,), "NxC", detectors, _blocks(n, columns), n)))
    m = min(sample_images, TIMED_PROBLEM)
    rows = np.random.default_rng(0).normal(size=(m, m + 1))
    solve_s = _seconds(clock, lambda: solve(rows @ rows.T, centred=True))
    larger = sample_images / n
    return PartCosts(
        maps_s,
        aggregate_s / len(held),
        larger * product_s,
        larger * max(0.0, one - product_s),
        larger**2 * gram_s,
        (sample_images / m) ** 3 * solve_s,
    )


def _projecting(device: torch.device, detectors: int, n: int, columns: int, width: int) -> Callable:
    """Projects random psi of so many detectors once, on a random sample of n images."""
    generator = np.random.default_rng(0)
    components = {detectors: (generator.normal(size=(n, width)), np.zeros(width))}
    projector = Projector(components, "NxC", torch.arange(detectors), _blocks(n, columns), n)
    psi = torch.from_numpy(generator.random((IMAGES_A_PASS, detectors, columns), dtype=np.float32)).to(device)
    return lambda: projector.project(psi)


def _blocks(n: int, columns: int) -> Callable[[int, int], Iterator[tuple[int, torch.Tensor]]]:
    """Random blocks in the manner of `features.parts.blocks.chunks`."""
    block = torch.from_numpy(np.random.default_rng(0).random((n, columns), dtype=np.float32)).half()

    def chunks(first: int, end: int) -> Iterator[tuple[int, torch.Tensor]]:
        for place in range(first, end):
            yield place, block[None]

    return chunks


def _seconds(clock: Clock, call: Callable[[], object]) -> float:
    """The faster of two calls: the first touches new memory."""
    taken = []
    for _ in range(2):
        start = clock()
        call()
        taken.append(clock() - start)
    return min(taken)
