"""Batches computed side by side, and how many images a batch has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from competition.configuration import Backbone
from competition.errors import ConfigurationError
from features.dumps.layout import Target
from features.extraction.engine import Engine
from features.extraction.settings import Settings, gpu_rows

LAYERS = ("layer1", "layer4")


@pytest.fixture
def engine_of():
    """An engine on named layers, whose forward hooks keep their maps in the network, by its settings."""
    threads = torch.get_num_threads()
    backbone = Backbone("test_resnet", LAYERS, "test_resnet", weights="random", image_size=32)
    yield lambda **changes: Engine(
        backbone,
        Settings(
            **{
                "device": "cpu",
                "threads": 1,
                "precision": "float32",
                "memory_format": "channels_last",
                "batch_rows": 4,
                "window_rows": 8,
                "torch": torch.__version__,
            }
            | changes
        ),
    )
    torch.set_num_threads(threads)


def test_batches_side_by_side_give_the_bytes_of_one_after_the_other(engine_of):
    targets = [Target(Path(layer), {}, layer, pooling="spoc") for layer in LAYERS]
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8) for _ in range(24)]
    alone = engine_of()
    expected = [alone.describe([batch], targets) for batch in batches]
    together = engine_of(threads=3, batch_threads=1)  # sets this thread's number of threads: after the others
    assert (alone.settings.at_once, together.settings.at_once) == (1, 3)
    futures = [together.submit([batch], targets) for batch in batches]
    for one, future in zip(expected, futures, strict=True):
        found = future.result()
        assert all(np.array_equal(a, b) for a, b in zip(one.rows, found.rows, strict=True))
        assert np.array_equal(one.norms, found.norms)
    assert len({row.tobytes() for one in expected for row in one.rows}) == 2 * len(batches)


def described(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    """(T, B, D) descriptors of every pooling of the last layer."""
    targets = [Target(Path(name), {}, "layer4", pooling=name) for name in ("spoc", "gem", "fcrow", "rmac")]
    return np.stack(engine.describe([pixels], targets).rows)


PIXELS = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8).repeat(12, 1).repeat(12, 2)


@pytest.mark.parametrize("change", [{"threads": 3}, {"memory_format": "contiguous_format"}])
def test_other_settings_stay_within_the_tolerance_that_readme_states(engine_of, change):
    expected = described(engine_of(), PIXELS)
    assert np.abs(described(engine_of(**change), PIXELS) - expected).max() <= 1e-5
    one_by_one = np.concatenate([described(engine_of(), PIXELS[row : row + 1]) for row in range(6)], axis=1)
    assert np.abs(one_by_one - expected).max() <= 1e-5


def test_half_precision_stays_within_the_tolerance_that_readme_states(engine_of):
    """What a GPU does, on the CPU: only the network in half precision."""
    full = described(engine_of(), PIXELS).astype(np.float64)
    half = described(engine_of(precision="float16"), PIXELS)
    assert np.abs(half - full).max() > 1e-6, "nothing was reduced"
    assert (half * full).sum(2).min() >= 0.999


def test_neither_slot_nor_neighbours_change_a_bit(engine_of):
    engine = engine_of()
    blank = np.zeros_like(PIXELS)
    found = []
    for slot in range(6):
        for others in (blank, PIXELS):
            batch = others.copy()
            batch[slot] = PIXELS[0]
            found.append(described(engine, batch)[:, slot].tobytes())
    assert len(set(found)) == 1


def test_networks_lent_to_threads_share_their_weights(engine_of):
    engine = engine_of(threads=2, batch_threads=1)
    with engine._borrowed() as first, engine._borrowed() as second:
        assert first.module is not second.module
        pairs = list(zip(first.module.parameters(), second.module.parameters(), strict=True))
    assert pairs and all(a.data_ptr() == b.data_ptr() for a, b in pairs)


def test_several_batches_that_run_out_of_memory_halve_once(engine_of, capsys):
    engine = engine_of()
    assert engine.halve_batch(4) and engine.halve_batch(4)
    assert engine.settings.batch_rows == 2 and capsys.readouterr().err.count("out of memory") == 1
    assert engine.halve_batch(2) and engine.settings.batch_rows == 1
    assert not engine.halve_batch(1)


def test_settings_of_earlier_versions_compute_one_batch_at_a_time(engine_of):
    assert engine_of(threads=2).settings.at_once == 1


@pytest.mark.parametrize("cores, at_once, decoding", [(None, 4, 4), (8, 4, 4), (3, 3, 3), (1, 1, 1)])
def test_a_process_that_shares_the_machine_computes_fewer_batches_at_once(
    engine_of, cores, at_once, decoding
):
    settings = engine_of(threads=4, batch_threads=1).settings
    engine = Engine(
        Backbone("test_resnet", LAYERS, "test_resnet", weights="random", image_size=32), settings, cores=cores
    )
    assert (engine.at_once, engine.decode_threads) == (at_once, decoding)
    assert engine.settings == settings  # what the manifest records
    targets = [Target(Path("layer4"), {}, "layer4", pooling="spoc")]
    threads = []
    engine.describe = lambda *_: threads.append(torch.get_num_threads())
    for _ in range(4):
        engine.submit([PIXELS], targets).result()
    assert threads == [1] * 4


@pytest.mark.parametrize(
    "side_px,free_gib,rows", [(224, 139, 128), (224, 8, 8), (448, 8, 2), (224, 0.1, 1), (32, 139, 256)]
)
def test_rows_of_a_batch_on_a_gpu(side_px, free_gib, rows):
    # half of 8 GiB is 4096 MiB, two batches of one 224-px image take 2 * 224 * 224 * 4 KiB = 392 MiB: 10, so 8
    assert gpu_rows(side_px, int(free_gib * 2**30)) == rows


def test_a_transformer_for_images_of_one_size_refuses_to_keep_shapes(engine_of):
    backbone = Backbone("test_vit", (0,), "test_vit", weights="random", image_size=64, resize="keep")
    with pytest.raises(ConfigurationError, match="many shapes.*dynamic_img_size"):
        Engine(backbone, engine_of().settings)
    options = {"dynamic_img_size": True, "dynamic_img_pad": True}
    engine = Engine(replace(backbone, options=options), engine_of().settings)
    assert engine.maps(np.zeros((2, 33, 70, 3), np.uint8))[0].shape[2:] == (3, 5)  # patches of 16 px
