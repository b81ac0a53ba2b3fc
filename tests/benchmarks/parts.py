"""Part detectors: aggregation against the elementwise formula, eight counts against one, PCA against scikit-learn,
and MAP@7 on the grocery competition in the form of the paper's Tables 1 and 2.

    python tests/benchmarks/parts.py aggregation counts pca tables --shared ../shared

Physical limits, at the machine's float32 rate (a bare matrix product is timed first): aggregation 2 N C H W operations
an image; projection 2 n N C for products with n sample images, and 2 n M a count in float64; learning n^2 N C for the
Gram matrices (twice that as computed, without their symmetry). The sample's blocks take 2 n N C bytes on disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from competition.configuration import Backbone, Parts
from features.parts import learn_parts, selection
from features.parts.aggregation import aggregate, part_weights
from features.parts.blocks import chunks, open_blocks
from features.pooling import pool_maps
from features.whitening import column_scales, dual_components, unit_rows
from tests.benchmarks.search_speed import AnonymousPeak

COUNTS = (10, 25, 50, 150, 250, 350, 450, 512)


def sparse_maps(n: int, channels: int, side: int, seed: int) -> torch.Tensor:
    """(n, C, side, side) float32, half of it zero, channels of different strength."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(channels, 1, 1, generator=generator) * torch.rand(
        n, channels, 1, 1, generator=generator
    )
    return (torch.randn(n, channels, side, side, generator=generator) * strength).relu_()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def best_s(function: Callable, repeats: int) -> float:
    """The shortest of `repeats` times, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times)


def machine() -> None:
    square = torch.rand(2048, 2048)
    rate = 2 * 2048**3 / best_s(lambda: square @ square, 5)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; bare float32"
    )
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s\n")


def aggregation(images: int = 8) -> None:
    """One batched product against the broadcast product and sum, N = 150, C = 512, 15 x 15."""
    maps = sparse_maps(images, 512, 15, 0)
    detectors = torch.arange(150)

    def product() -> torch.Tensor:
        return aggregate(maps, part_weights(maps, detectors))

    def elementwise(image: torch.Tensor) -> torch.Tensor:
        weights = part_weights(image[None], detectors)[0].view(150, 1, 15, 15)
        return (weights * image).sum((2, 3))

    expected = torch.stack([elementwise(image) for image in maps])
    error = ((product() - expected).abs().max() / expected.abs().max()).item()
    fast_ms = best_s(product, 20) / images * 1e3
    slow_ms = best_s(lambda: elementwise(maps[0]), 5) * 1e3
    flops = 2 * 150 * 512 * 225
    print("## Aggregation, N = 150, C = 512, 15 x 15 maps")
    print(
        f"elementwise {slow_ms:.2f} ms an image, matrix product {fast_ms:.3f} ms: {slow_ms / fast_ms:.0f} times as fast"
    )
    print(f"largest difference {error:.1e} of the largest value; {flops / fast_ms / 1e6:.1f} GFLOP/s\n")


def counts(images: int = 128, n: int = 2000, dim: int = 1024) -> None:
    """All eight counts against the largest alone: C = 512, 14 x 14, a sample of n, M = dim."""
    print(
        f"## All counts {', '.join(map(str, COUNTS))} against 512 alone: C = 512, 14 x 14, sample {n}, M = {dim}"
    )
    base = sparse_maps(50, 512, 14, 1)

    def sample() -> Iterator[torch.Tensor]:
        return (
            base.roll(shift, 1) * (0.5 + base[:, :, :1, :1].roll(7 * shift, 1)) for shift in range(n // 50)
        )

    gallery = sparse_maps(images, 512, 14, 0)
    parts = Parts(layer="conv5_3", counts=COUNTS, dims=(dim,), training_images=n)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        start = clock()
        with AnonymousPeak() as peak:
            model = learn_parts(parts, sample, Path(folder), name="bench", provenance={})
        learning_s = clock() - start
        size_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        products = torch.randn(n, 2 * n, dtype=torch.float64)
        products = (products @ products.T).numpy()
        problem_s = best_s(lambda: dual_components(products), 1)
        print(
            f"learning all: {learning_s:.0f} s of which {len(COUNTS)} eigenproblems of {problem_s:.1f} s, so that 512 alone"
            f" takes about {learning_s - (len(COUNTS) - 1) * problem_s:.0f} s; anonymous memory"
            f" {peak.peak_bytes / 1e9:.2f} GB; on disk {size_bytes / 1e9:.2f} GB"
        )
        aggregating_s = best_s(lambda: model.aggregate(gallery), 3)
        psi = model.aggregate(gallery)
        times = {}
        for label, wanted in (("512 alone", model.only(COUNTS[-1:])), ("all eight", model)):
            with AnonymousPeak() as peak:
                projecting_s = best_s(lambda wanted=wanted: wanted.project_psi(psi), 3)
            times[label] = aggregating_s + projecting_s
            print(
                f"{label}: aggregation {aggregating_s / images * 1e3:.2f} ms, projection"
                f" {projecting_s / images * 1e3:.2f} ms an image; anonymous memory {peak.peak_bytes / 1e9:.2f} GB, of it"
                f" {(gallery.nbytes + psi.nbytes) / 1e9:.2f} GB the benchmark's own maps and psi"
            )
        print(f"all / largest, aggregation and projection: {times['all eight'] / times['512 alone']:.2f}\n")


def grocery_maps(shared: Path) -> tuple[torch.Tensor, torch.Tensor, list[set[int]]]:
    """Layer 4 of mobilenetv1_100 at 288 px: gallery and validation maps, and each query's correct rows."""
    from competition.images import list_images
    from competition.labels import read_labels
    from features.extraction.engine import Engine
    from features.extraction.learn_parts import layer_maps
    from features.extraction.settings import Settings

    backbone = Backbone(
        model="mobilenetv1_100",
        layers=(4,),
        name="mobilenetv1_100",
        weights=shared / "weights" / "mobilenetv1_100.safetensors",
        options={"pad_type": "same"},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_size=288,
    )
    threads = torch.get_num_threads()
    engine = Engine(backbone, Settings("cpu", threads, "float32", "channels_last", 4, 256, torch.__version__))
    gallery, queries = list_images(shared / "grocery" / "gallery"), list_images(shared / "grocery" / "val")
    labels = read_labels(shared / "grocery" / "val.csv", query_ids=queries.ids, gallery_ids=gallery.ids)
    row_of = {name: row for row, name in enumerate(gallery.ids)}
    relevant = [{row_of[name] for name in labels[query]} for query in queries.ids]
    found = [torch.cat(list(layer_maps(engine, images, 4))) for images in (gallery, queries)]
    assert len(found[0]) == len(gallery) and len(found[1]) == len(queries)
    return found[0], found[1], relevant


def pca(shared: Path) -> None:
    """The dual form against scikit-learn's full SVD on grocery: N = 150, C = 1024, 153,600 dimensions."""
    from sklearn.decomposition import PCA

    maps, _, _ = grocery_maps(shared)
    dims = len(maps) - 1
    parts = Parts(layer=4, counts=(150,), dims=(dims,))
    print(f"## PCA of {len(maps)} images in 150 x 1024 = 153,600 dimensions, all {dims} components")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        start = time.perf_counter()
        model = learn_parts(parts, lambda: iter(maps.split(16)), Path(folder), name="pca", provenance={})
        dual_s = time.perf_counter() - start
        psi = model.aggregate(maps).flatten(1).numpy().astype(np.float64)
        psi /= np.linalg.norm(psi, axis=1, keepdims=True)
        start = time.perf_counter()
        sklearn = PCA(n_components=dims, svd_solver="full").fit(psi)
        full_s = time.perf_counter() - start
        # our axes are combinations of the sample's rows as they are on disk, in half precision
        cosines, norms = np.zeros(dims), np.zeros(dims)
        axes = model.components[150]["coefficients"]
        for place, halves in chunks(open_blocks(model.folder), 0, 150):
            for block in halves.double().numpy():
                ours = axes.T @ block
                theirs = sklearn.components_[:, place * 1024 : (place + 1) * 1024]
                cosines += np.einsum("mc,mc->m", ours, theirs)
                norms += np.einsum("mc,mc->m", ours, ours)
                place += 1
        cosines = np.abs(cosines) / np.sqrt(norms)
    values = sklearn.singular_values_**2
    gaps = np.minimum(np.abs(np.diff(values, prepend=np.inf)), np.abs(np.diff(values, append=0))) / values
    print(
        f"learn_parts from maps {dual_s:.1f} s (selection, aggregation, half-precision file, Gram matrix, components);"
    )
    print(
        f"scikit-learn {full_s:.1f} s for the decomposition alone, on the finished matrix of {psi.nbytes / 1e9:.2f} GB"
    )
    for upto in (64, 128, 256, 400, 512, dims):
        kept = gaps[:upto] > 1e-3
        print(
            f"components 1 to {upto}: |cosine| at least {cosines[:upto].min():.6f}, without those nearer than 1e-3 to a"
            f" neighbour ({(~kept).sum()}) {cosines[:upto][kept].min():.6f}"
        )
    spectrum = np.abs(model.eigenvalues[150] / values - 1)
    print(f"eigenvalues: largest relative difference {spectrum.max():.1e}\n")


def average_precision(scores: np.ndarray, relevant: list[set[int]], k: int = 7) -> float:
    """MAP@7, sum of precisions at hits over min(m, k), of scores (queries, gallery)."""
    total = 0.0
    for row, correct in zip(np.argsort(-scores, axis=1, kind="stable")[:, :k], relevant, strict=True):
        hits, found = 0, 0.0
        for rank, item in enumerate(row, start=1):
            if item in correct:
                hits += 1
                found += hits / rank
        total += found / min(k, len(correct))
    return total / len(relevant)


def joint_grams(
    maps: torch.Tensor, subsets: dict[str, tuple[np.ndarray, np.ndarray | None]], **options: object
) -> dict[str, np.ndarray]:
    """Gram matrices (images, images) float64 of psi for many subsets {name: (detectors, channels or None)} at once.

    A second way to what `PartModel` projects: the rows of queries and the columns of the gallery are the products.
    """
    n = len(maps)
    grams = {name: np.zeros((n, n)) for name in subsets}
    for detector in range(maps.shape[1]):
        users = {
            name: channels for name, (detectors, channels) in subsets.items() if detector in set(detectors)
        }
        if not users:
            continue
        weights = part_weights(maps, torch.tensor([detector]), **options)
        block = torch.cat(
            [aggregate(part, w)[:, 0] for part, w in zip(maps.split(64), weights.split(64), strict=True)]
        )
        whole = None
        for name, channels in users.items():
            if channels is None:
                whole = (block @ block.T).double().numpy() if whole is None else whole
                grams[name] += whole
            else:
                some = block[:, torch.from_numpy(channels)]
                grams[name] += (some @ some.T).double().numpy()
    return grams


def score(gram: np.ndarray, n: int, dim: int, exponent: float, relevant: list[set[int]]) -> float:
    """MAP@7 of the first n images as gallery (and sample), the others as queries."""
    learnt = dual_components(gram[:n, :n])
    cosines = gram[:, :n] / np.sqrt(np.diag(gram))[:, None]
    scales = column_scales(learnt.eigenvalues, dim, exponent)
    rows, _ = unit_rows((cosines @ learnt.coefficients[:, :dim] - learnt.offset[:dim]) * scales)
    rows = rows.astype(np.float64)
    return average_precision(rows[n:] @ rows[:n].T, relevant)


def tables(shared: Path, seeds: int = 10) -> None:
    """Tables 1 and 2 on grocery: 567 gallery images, learnt on the gallery, 162 queries, MAP@7 over min(m, 7)."""
    gallery, queries, relevant = grocery_maps(shared)
    maps, n = torch.cat([gallery, queries]), len(gallery)
    channels = maps.shape[1]
    variance = selection.SumVariance()
    variance.add(gallery)
    order = selection.by_variance(variance.variance())
    wanted = (*COUNTS[:-1], 307, 512, channels)
    subsets: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for count in sorted(wanted):
        subsets[f"{count}"] = (order[:count], None)
    for count in (25, 50, 150, 512):
        subsets[f"{count} NxN"] = (order[:count], order[:count])
    for count in (25, 307):
        for seed in range(seeds):
            subsets[f"{count} random {seed}"] = (selection.at_random(channels, seed)[:count], None)
    grams = joint_grams(maps, subsets)

    def found(name: str, dim: int, exponent: float) -> float:
        return score(grams[name], n, dim, exponent, relevant)

    pooled = pool_maps(maps, ("spoc", "crow"))
    for name, rows in pooled.items():
        unit = unit_rows(rows.numpy())[0].astype(np.float64)
        print(f"{name} of the same layer: {average_precision(unit[n:] @ unit[:n].T, relevant):.3f}")
    dims = (64, 128, 256, 512)
    print("\n## Table 1: MAP@7 by count\n")
    print("| selection | M, exponent | " + " | ".join(f"N = {count}" for count in sorted(wanted)) + " |")
    print("|" + " --- |" * (len(wanted) + 2))
    for dim, exponent in ((128, 1.0), (256, 0.5), (512, 0.5), (512, 1.0)):
        cells = " | ".join(f"{found(str(count), dim, exponent):.3f}" for count in sorted(wanted))
        print(f"| variance | {dim}, {exponent:g} | {cells} |")
    print(
        "\n| N | M, exponent | variance | random, mean ± deviation (least, most) of", seeds, "seeds | N x N |"
    )
    print("| --- | --- | --- | --- | --- |")
    for count in (25, 307):
        for dim, exponent in ((128, 1.0), (256, 0.5)):
            row = [found(f"{count} random {seed}", dim, exponent) for seed in range(seeds)]
            square = f"{found(f'{count} NxN', dim, exponent):.3f}" if f"{count} NxN" in grams else ""
            print(
                f"| {count} | {dim}, {exponent:g} | {found(str(count), dim, exponent):.3f} | {np.mean(row):.3f} ±"
                f" {np.std(row, ddof=1):.3f} ({min(row):.3f}, {max(row):.3f}) | {square} |"
            )
    for count in (50, 150, 512):
        for dim, exponent in ((128, 1.0), (256, 0.5)):
            print(
                f"| {count} | {dim}, {exponent:g} | {found(str(count), dim, exponent):.3f} | | {found(f'{count} NxN', dim, exponent):.3f} |"
            )
    print("\n## Table 2: MAP@7 by dimension, N = 150\n")
    print("| whitening | " + " | ".join(f"M = {dim}" for dim in dims) + " |")
    print("|" + " --- |" * (len(dims) + 1))
    for label, exponent in (
        ("none (plain PCA)", 0.0),
        ("shrunk, exponent 0.5", 0.5),
        ("whole, exponent 1", 1.0),
    ):
        print(f"| {label} | " + " | ".join(f"{found('150', dim, exponent):.3f}" for dim in dims) + " |")
    print("\nN = 100, M = 128, as printed (without 1/alpha) and with it:")
    hundred = {"100": (order[:100], None)}
    print(
        " ".join(
            f"{score(joint_grams(maps, hundred, root=root)['100'], n, 128, 1.0, relevant):.3f}"
            for root in (False, True)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=("aggregation", "counts", "pca", "tables"))
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="folder with grocery/ and weights/"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's own)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a busy machine"
    )
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    if given.threads:
        torch.set_num_threads(given.threads)
    machine()
    for what in given.what:
        {"aggregation": aggregation, "counts": counts}.get(what, lambda: None)()
        if what in ("pca", "tables"):
            {"pca": pca, "tables": tables}[what](given.shared)


if __name__ == "__main__":
    main()
