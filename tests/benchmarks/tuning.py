"""What tuning costs on a gallery of 520,000: one pass, then trials; exact, beside recombining stored similarities.

    python -m tests.benchmarks.tuning [--rows 520000] [--queries 100] [--trials 200] [--sweep] [--certify SECONDS …]

Made-up descriptors with the papers' five VGG layers (64 + 128 + 256 + 512 + 512 dimensions), written block by block
from a seed; a query is a correct image seen anew, differently at every layer. The correlation structure decides the
outcome, so per-layer similarity quantiles and the layers' rank correlations are printed first, grocery's beside them
(mobilenetv1_100, FCroW, extracted here; said where ../shared is absent). Physical limit of the pass: 2 * queries * rows
* 1472 operations at the rate of the bare float32 matrix product. Memory: the anonymous memory of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna

from competition.configuration import load_configuration
from competition.metrics import figures_of_hits
from features.components import Component
from features.dumps import Dump, column_sum
from features.extraction import extract
from features.search.similarity import component_similarity, similarity_blocks
from tests.benchmarks.full_ranking import full_precisions
from tests.benchmarks.search_speed import AnonymousPeak
from tests.grocery import SHARED, grocery_configuration
from tuning.certificate import certify
from tuning.combination import Combination, make_combination
from tuning.landscape import Landscape
from tuning.objective import mean_average_precision, top_positions
from tuning.region import random_coordinates
from tuning.space import Space
from tuning.study import TrialPlan, completed, open_study, run_trials

LAYERS = {"conv1_2": 64, "conv2_2": 128, "conv3_3": 256, "conv4_3": 512, "conv5_3": 512}
COMMON = (
    14.0,
    18.0,
    13.0,
    8.0,
    2.0,
)  # length of the part all images share: lifts the mean cosine to that of grocery
OWN_NOISE = (0.7, 0.6, 0.5, 0.5, 0.7)  # what a layer knows alone, beside the latent that all share
LATENT = 48
TURNS = 5  # of the pass and the bare product
SEEN_ANEW, SEEN_BY_LAYER = (
    1.2,
    (0.6, 0.5, 0.4, 0.4, 0.5),
)  # how far a photo is from its shop picture: common, by layer


def latents(rows: range, seed: int) -> np.ndarray:
    """Return (len(rows), LATENT) float32 latents of gallery images: clusters of near-duplicates."""
    generator = np.random.default_rng((seed, rows.start))
    clusters = np.random.default_rng(seed).standard_normal((4096, LATENT), dtype=np.float32)
    own = generator.standard_normal((len(rows), LATENT), dtype=np.float32)
    return 0.8 * clusters[generator.integers(0, 4096, len(rows))] + 0.6 * own


def describe(z: np.ndarray, layer: int, dimension: int, seed: int, key: int) -> np.ndarray:
    """Return (m, D) float32 unit descriptors of one layer from latents (m, LATENT)."""
    fixed = np.random.default_rng((seed, 77, layer))
    basis = fixed.standard_normal((LATENT, dimension), dtype=np.float32) / np.sqrt(dimension)
    common = np.abs(fixed.standard_normal(dimension, dtype=np.float32))
    common *= COMMON[layer] * np.sqrt(LATENT) / 4 / np.linalg.norm(common)
    noise = np.random.default_rng((seed, key, layer)).standard_normal((len(z), dimension), dtype=np.float32)
    x = np.maximum(
        common + (z @ basis) * 0.5 + noise * (OWN_NOISE[layer] * 0.5 * np.sqrt(LATENT / dimension) / 2), 0
    )
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def free_component(z: np.ndarray, dimension: int, seed: int, number: int, key: int) -> np.ndarray:
    """Return centred unit descriptors (m, D), as whitened part detectors give them."""
    basis = np.random.default_rng((seed, 99, number)).standard_normal((LATENT, dimension), dtype=np.float32)
    noise = np.random.default_rng((seed, key, 99 + number)).standard_normal(
        (len(z), dimension), dtype=np.float32
    )
    x = z @ basis / np.sqrt(LATENT) + 0.8 * noise
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def seen_by_layer(n_queries: int, layer: int, seed: int) -> np.ndarray:
    """Return (n_queries, LATENT) float32: what a layer sees of a photo beside what all layers see."""
    generator = np.random.default_rng((seed, 55, layer))
    return SEEN_BY_LAYER[layer] * generator.standard_normal((n_queries, LATENT), dtype=np.float32)


def make(
    folder: Path, n_rows: int, n_queries: int, free: int, seed: int = 0, chains: int = 1, deepest: int = 5
):
    """Write the gallery's files, return (components, query dumps, gallery dumps, relevant rows)."""
    specs = [
        (f"net{chain}/{name}", f"net{chain}", layer, dimension)
        for chain in range(chains)
        for layer, (name, dimension) in list(enumerate(LAYERS.items()))[-deepest:]
    ]
    components = [Component(name, chain, pooling="fcrow") for name, chain, _, _ in specs]
    components += [Component(f"parts{number}", f"parts{number}") for number in range(free)]
    widths = [dimension for _, _, _, dimension in specs] + [256] * free

    def of(z: np.ndarray, key: int, by_layer: float = 0.0) -> list[np.ndarray]:
        found = [
            describe(
                z + by_layer * seen_by_layer(len(z), layer, seed), layer, dimension, seed + int(name[3]), key
            )
            for name, _, layer, dimension in specs
        ]
        return found + [free_component(z, 256, seed, number, key) for number in range(free)]

    files = [
        np.lib.format.open_memmap(folder / f"{number}.npy", "w+", np.float32, (n_rows, width))
        for number, width in enumerate(widths)
    ]
    for start in range(0, n_rows, 8192):
        block = range(start, min(start + 8192, n_rows))
        for file, values in zip(files, of(latents(block, seed), start)):
            file[block.start : block.stop] = values
    generator = np.random.default_rng(seed + 5)
    relevant = [generator.choice(n_rows, 1) for _ in range(n_queries)]
    z = np.concatenate(
        [
            latents(range(r[0] // 8192 * 8192, min(r[0] // 8192 * 8192 + 8192, n_rows)), seed)[r[0] % 8192][
                None
            ]
            for r in relevant
        ]
    )
    z = z + SEEN_ANEW * generator.standard_normal(z.shape).astype(np.float32)
    ids = tuple(map(str, range(n_rows)))

    def dump(path: Path, values: np.ndarray, names: tuple[str, ...], **sidecar: object) -> Dump:
        return Dump(
            path, names, values, np.ones(len(values), np.float32), np.zeros(len(values), bool), {}, sidecar
        )

    def opened(number: int) -> Dump:  # with the sum of its rows, as extraction keeps it
        values = np.load(folder / f"{number}.npy", mmap_mode="r")
        return dump(folder / f"{number}.npy", values, ids, column_sum=column_sum(values).tolist())

    gallery = list(map(opened, range(len(widths))))
    queries = []
    for number, values in enumerate(of(z, -1 & 0xFFFF, by_layer=1.0)):
        np.save(folder / f"q{number}.npy", values)
        queries.append(dump(folder / f"q{number}.npy", values, tuple(f"v{q}" for q in range(n_queries))))
    return components, queries, gallery, relevant


def structure(queries, gallery, components) -> str:
    """Return per-layer quantiles of the similarities and the mean rank correlation of neighbouring layers."""
    from scipy.stats import spearmanr

    rows = np.linspace(0, len(gallery[0].ids) - 1, min(5000, len(gallery[0].ids))).astype(int)
    s = [
        np.stack([component_similarity(q, g.descriptors[rows]) for q in d.descriptors[:20]])
        for d, g in zip(queries, gallery)
    ]
    lines = []
    for number, (component, values) in enumerate(zip(components, s)):
        quantiles = np.quantile(values, [0.05, 0.5, 0.95])
        next_ = s[number + 1] if number + 1 < len(s) else None
        rho = (
            np.mean([spearmanr(a, b).statistic for a, b in zip(values, next_)])
            if next_ is not None
            else float("nan")
        )
        lines.append(
            f"  {component.name:<16} 5 % {quantiles[0]:.3f}  median {quantiles[1]:.3f}  95 % {quantiles[2]:.3f}"
            f"   rank correlation with the next {rho:.2f}"
        )
    return "\n".join(lines)


def grocery_structure() -> str:
    """Return `structure` of grocery's descriptors, five layers, extracted into a temporary folder."""
    if not (SHARED / "grocery").is_dir():
        return f"  {SHARED / 'grocery'} is not there: no real descriptors to compare with"
    with (
        tempfile.TemporaryDirectory() as name,
        open(os.devnull, "w") as silence,
        contextlib.redirect_stderr(silence),
    ):
        file = Path(name) / "grocery.toml"
        file.write_text(grocery_configuration(SHARED, ["fcrow"]))
        configuration = load_configuration(file, work=Path(name))
        extract(configuration)
        landscape = Landscape(configuration)
        choice = {"mobilenetv1_100.pooling": "fcrow"}
        return structure(*landscape.dumps(choice), landscape.combination(choice).components)


def overhead(combination: Combination, n_trials: int) -> tuple[float, float]:
    """Return (seconds of a whole study of `n_trials` by TPE, seconds of its evaluations alone)."""
    study = open_study(optuna.storages.InMemoryStorage(), "overhead")
    spent = 0.0

    def evaluate(choice: dict[str, object], coordinates: np.ndarray) -> float:
        nonlocal spent
        begun = time.perf_counter()
        value = mean_average_precision(combination.padded, coordinates @ combination.corners)
        spent += time.perf_counter() - begun
        return value

    begun = time.perf_counter()
    run_trials(
        study, TrialPlan(Space({}, lambda choice: combination.components), n_trials, 0, "tpe"), evaluate
    )
    assert len(completed(study)) == n_trials
    return time.perf_counter() - begun, spent


def recombined(
    points: np.ndarray, values: list[float], combination: Combination, queries, gallery, relevant, k: int
) -> str:
    """Return how long recombining stored similarities takes a trial, and on how many trials the figures agree.

    The recombination is float32; where it differs, the exact ranking of the whole gallery says which one is right.
    """
    stored = np.stack(
        [
            np.concatenate(
                [
                    layers[number].copy()
                    for _, layers in similarity_blocks(
                        [q.descriptors for q in queries], [g.descriptors for g in gallery]
                    )
                ],
                axis=1,
            )
            for number in range(len(gallery))
        ]
    )
    begun = time.perf_counter()
    slow = [recombine(stored, point, relevant, k) for point in points]
    seconds = (time.perf_counter() - begun) / len(points)
    del stored
    other = [number for number, value in enumerate(slow) if abs(value - values[number]) > 1e-9]
    exact = sum(
        abs(full_precisions(queries, gallery, points[number], relevant, k).mean() - values[number]) < 1e-12
        for number in other
    )
    text = (
        f"recombined {seconds:.2f} s a trial; figures agree on {len(slow) - len(other)} of {len(slow)} trials"
    )
    return text + (
        f", on the others the exact full ranking agrees with the trial {exact} of {len(other)} times"
        if other
        else ""
    )


def bare_product(queries, gallery, block_rows: int) -> float:
    """Return the seconds of the matrix products alone, one a component and block, the gallery memory-mapped."""
    begun = time.perf_counter()
    for _ in similarity_blocks(
        [q.descriptors for q in queries], [g.descriptors for g in gallery], block_rows
    ):
        pass
    return time.perf_counter() - begun


def recombine(stored: np.ndarray, weights: np.ndarray, relevant, k: int) -> float:
    """Return MAP@k of one trial the usual way: all stored similarities (L, Q, n) float32 weighed again."""
    scores = np.tensordot(weights.astype(np.float32), stored, axes=1)
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    values = np.take_along_axis(scores, top, axis=1)
    top = np.take_along_axis(top, top_positions(values, k)[0], axis=1)
    hits = np.array([np.isin(line, rows) for line, rows in zip(top, relevant)])
    return float(figures_of_hits(hits, np.array([len(rows) for rows in relevant]), k).mean())


def measure(
    n_rows: int,
    n_queries: int,
    trials: int,
    regions,
    free: int,
    chains: int,
    certify_seconds,
    k: int = 7,
    deepest: int = 5,
    n_recombined: int = 5,
):
    """Run one setting and print its figures; the first region's trials are recombined `n_recombined` times."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        components, queries, gallery, relevant = make(
            Path(name), n_rows, n_queries, free, chains=chains, deepest=deepest
        )
        print(
            f"\n{n_rows} rows, {n_queries} queries, {len(components)} components "
            f"({sum(g.descriptors.shape[1] for g in gallery)} dimensions), float32"
        )
        print(structure(queries, gallery, components))
        bare_product(queries, gallery, 8192)  # the files into the page cache
        for region in regions:
            everything = components, queries, gallery, relevant, np.ones(n_queries, bool), k, region, None
            bare, passes = [bare_product(queries, gallery, 8192)], []
            for _ in range(TURNS):  # in turn, so that other work on the machine meets both
                begun = time.perf_counter()
                combination = make_combination(*everything)
                passes.append(time.perf_counter() - begun)
                bare.append(bare_product(queries, gallery, 8192))
            bare_s, pass_s = float(np.median(bare)), float(np.median(passes))
            with AnonymousPeak() as memory:
                make_combination(*everything)
            if combination.padded is None:
                print(f"  {region:<10} prunes badly: exact recombination is streamed")
                continue
            points = (
                random_coordinates(trials, len(components), np.random.default_rng(1)) @ combination.corners
            )
            begun = time.perf_counter()
            values = [mean_average_precision(combination.padded, point) for point in points]
            trial_s = (time.perf_counter() - begun) / trials
            study_s, evaluations_s = overhead(combination, trials)
            print(
                f"  {region:<10} bare product {bare_s:.2f} s, pass {pass_s:.2f} s ({pass_s / bare_s:.2f} x, medians of "
                f"{len(bare)} and {len(passes)}; least {min(bare):.2f} and {min(passes):.2f}), anonymous peak "
                f"{memory.peak_bytes / 2**30:.2f} GiB, candidates {combination.mean_candidates:.1f} a query\n"
                f"    trial {1e3 * trial_s:.3f} ms; MAP@{k} {min(values):.3f} to {max(values):.3f}; {trials} trials by TPE "
                f"{study_s:.2f} s, of which Optuna's own {study_s - evaluations_s:.2f} s",
                flush=True,
            )
            n_slow = min(trials, n_recombined if region == regions[0] else 5)
            if n_queries * n_rows * len(components) * 4 < 4 << 30:
                print(
                    f"    {recombined(points[:n_slow], values, combination, queries, gallery, relevant, k)}",
                    flush=True,
                )
            for seconds in certify_seconds:
                found = certify([combination.padded], [combination.corners], seconds)
                print(
                    f"    certificate after {found.seconds:.1f} s: best {found.best:.4f}, bound {found.bound:.4f}, "
                    f"gap {found.gap:.4f}, {found.nodes} sub-simplices",
                    flush=True,
                )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"  largest resident set so far {peak:.2f} GiB, mapped file pages and the stored similarities included"
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=520_000, help="0: the sweep alone")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument(
        "--free", type=int, default=0, help="components outside the order, like part detectors"
    )
    parser.add_argument("--chains", type=int, default=1)
    parser.add_argument("--regions", nargs="+", default=["similarity", "distance", "simplex"])
    parser.add_argument("--certify", type=float, nargs="*", default=[], metavar="SECONDS")
    parser.add_argument(
        "--recombined", type=int, default=200, help="trials compared with recombination, first region"
    )
    parser.add_argument("--sweep", action="store_true", help="then gallery sizes and component counts")
    options = parser.parse_args()
    if options.rows:
        measure(
            options.rows,
            options.queries,
            options.trials,
            options.regions,
            options.free,
            options.chains,
            options.certify,
            n_recombined=options.recombined,
        )
        print("\ngrocery, mobilenetv1_100, FCroW: its five layers\n" + grocery_structure())
    if options.sweep:
        for rows in (10_000, 100_000, 1_000_000):  # sizes, then counts of components
            measure(rows, options.queries, options.trials, ["similarity"], 0, 1, ())
        for free, chains, deepest in ((0, 1, 2), (0, 1, 3), (1, 1, 5), (2, 1, 5), (0, 2, 5), (2, 2, 5)):
            measure(
                100_000, options.queries, options.trials, ["similarity"], free, chains, (), deepest=deepest
            )


if __name__ == "__main__":
    main()
