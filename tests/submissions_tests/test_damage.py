"""Any file under work that a figure or a list depends on, flipped, zeroed or cut: verify names it, and what comes next
answers as an undamaged work folder does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from competition.configuration import load_configuration
from competition.errors import Top7Error
from features.extraction import extract, verify
from features.ranked_lists import ranked_lists
from features.recipes.recipe import Recipe
from tuning.landscape import Landscape

STEPS = (
    {"step": "whiten", "dim": 4},
    {"step": "augment", "neighbours": 2},
    {"step": "approximate", "index": "ivf_ondisk"},
)
KINDS = {
    "rows": "dumps/gallery/*.1.spoc-*[0-9a-f].npy",
    "norms": "dumps/gallery/*.1.spoc-*.norms.npy",
    "sums": "dumps/gallery/*.1.spoc-*.sums.npy",
    "sidecar": "dumps/gallery/*.1.spoc-????????????.json",
    "projection": "dumps/gallery/*.parts-N8-????????????.npy",
    "whitened": "dumps/gallery/*-M8-t0.5-????????????.npy",
    "whitened norms": "dumps/validation/*-M8-t0.5-*.norms.npy",
    "whitened sums": "dumps/validation/*-M8-t0.5-*.sums.npy",
    "whitened sidecar": "dumps/gallery/*-M8-t0.5-????????????.json",
    "sample": "parts/*.json",
    "order": "parts/*/order.json",
    "blocks": "parts/*/blocks-*.npy",
    "scales": "parts/*/scales.npy",
    "components": "parts/*/components-N8-*.safetensors",
    "candidates": "candidates/*.npz",
    "candidates' sidecar": "candidates/*.json",
    "whitening": "ranking/whitening-*.matrix.npy",
    "graph": "ranking/neighbours-*.scores.npy",
    "augmented": "ranking/augmented-*.npy",
    "ranking's sidecar": "ranking/augmented-*.json",
    "index": "ranking/index-*.faiss",
    "lists": "ranking/index-*.lists",
}


def flipped(data: bytes) -> bytes:
    place = len(data) * 2 // 3
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def zeroed(data: bytes) -> bytes:
    return data[: len(data) // 4] + bytes(64) + data[len(data) // 4 + 64 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


HARMS = (flipped, zeroed, cut)


def answers(configuration) -> list[bytes]:
    """Lists by a recipe with steps, and a study's figures by its candidates."""
    landscape = Landscape(configuration)
    choice = {**landscape.space.default, "test_resnet.parts-2.count": 8, "test_resnet.parts-2.dim": 8}
    components = landscape.space.components_of(choice)
    weights = (1 / len(components),) * len(components)
    lists = ranked_lists(
        configuration, Recipe("r", components, weights, steps=STEPS), "validation", None, None
    )
    figures = landscape.combination(choice).average_precisions(np.array(weights))
    return [lists.ranks.tobytes(), lists.scores.tobytes(), figures.tobytes()]


def prepared(configuration) -> list[bytes]:
    extract(configuration, device="cpu", progress=False)
    return answers(configuration)


@pytest.fixture(scope="module")
def work(tiny_competition, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "work"
    return folder, prepared(load_configuration(tiny_competition, work=folder))


@pytest.fixture()
def copied(work, tiny_competition, tmp_path):
    folder, expected = work
    shutil.copytree(folder, tmp_path / "work")
    return load_configuration(tiny_competition, work=tmp_path / "work"), expected


def harmed(configuration, kind: str, harm) -> Path:
    path = sorted(Path(configuration.competition.work).glob(KINDS[kind]))[0]
    before = path.read_bytes()
    path.write_bytes(harm(before))
    assert path.read_bytes() != before
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_verify_names_it_and_what_comes_next_answers_as_before(copied, kind):
    configuration, expected = copied
    for harm in HARMS:
        path = harmed(configuration, kind, harm)
        report = verify(configuration, progress=False)
        stems = {named.name.split(".npy")[0] for named in report.damaged}
        assert any(path.name.startswith(stem.removesuffix(".json")) for stem in stems), (kind, harm.__name__)
        assert prepared(configuration) == expected, (kind, harm.__name__)
        assert verify(configuration, progress=False).whole


@pytest.mark.parametrize(
    "kind", ["whitened", "components", "candidates", "whitening", "graph", "augmented", "index", "lists"]
)
def test_what_is_derived_is_made_again_even_without_verify(copied, kind):
    configuration, expected = copied
    for harm in HARMS:
        harmed(configuration, kind, harm)
        assert answers(configuration) == expected, (kind, harm.__name__)


def test_known_damage_stops_every_reader_until_extract_has_repaired_it(copied):
    configuration, expected = copied
    path = harmed(configuration, "rows", flipped)
    verify(configuration, progress=False)
    with pytest.raises(Top7Error, match=f"{path.name}: verify found 1 damaged rows: run ./run.sh extract"):
        answers(configuration)
    assert prepared(configuration) == expected


def test_damage_that_is_gone_stops_nobody(copied):
    configuration, expected = copied
    path = sorted(Path(configuration.competition.work).glob(KINDS["rows"]))[0]
    whole = path.read_bytes()
    path.write_bytes(flipped(whole))
    verify(configuration, progress=False)
    path.write_bytes(whole)
    assert verify(configuration, progress=False).whole
    assert answers(configuration) == expected
