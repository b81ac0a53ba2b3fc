"""What `import top7` names: against plain references, as the README shows it, and without side effects of importing."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import top7
from tests.conftest import ROOT

FOLDERS = ("competition", "features", "tuning", "submissions")


def _units(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _modules() -> dict[str, Path]:
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def test_the_readme_runs_as_written(tiny_competition, tmp_path, monkeypatch):
    shutil.copytree(tiny_competition.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.toml").rename(tmp_path / "grocery.toml")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## From Python\n")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    names: dict = {}
    exec(compile(code.replace("trials=200", "trials=12"), "README.md", "exec"), names)
    assert names["best"].map <= names["best"].bound and names["best"].weights.sum() == pytest.approx(1)
    table = names["run"].leaderboard()
    assert isinstance(table, pandas.DataFrame) and len(table) == 1
    assert table["split"][0] == "test" and 0 <= table["map"][0] <= 1 and table["public"].notna().all()
    assert table["file"][0].endswith("-test.csv")


def test_a_pooling_is_its_formula():
    maps = torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = _units(maps.double().mean((2, 3)).numpy())
    for given in (maps, maps.numpy(), maps.clone().requires_grad_()):
        assert np.allclose(top7.pool(given, "spoc").numpy(), expected, atol=1e-6)
    with pytest.raises(top7.Top7Error, match="expected \\(images, channels, height, width\\)"):
        top7.pool(maps[0])


def test_part_detectors_are_pwa_by_plain_numpy():
    maps = torch.rand(40, 6, 3, 4, generator=torch.Generator().manual_seed(1)).double().numpy() ** 2
    flat = maps.reshape(40, 6, 12)
    chosen = np.argsort(-flat.sum(2).var(0), kind="stable")[:3]
    weights = np.sqrt(flat[:, chosen] / np.linalg.norm(flat[:, chosen], axis=2, keepdims=True))
    psi = _units(np.einsum("bnp,bcp->bnc", weights, flat).reshape(40, -1))
    centred = psi - psi.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = _units(left[:, :5])  # full whitening: every direction of the sample counts alike
    found = top7.PartDetectors(count=3, dim=5).fit(maps)(maps).numpy()
    assert np.allclose(found @ found.T, expected @ expected.T, atol=2e-3)
    with pytest.raises(top7.Top7Error, match="fit"):
        top7.PartDetectors()(maps)


@pytest.mark.parametrize("region", ["simplex", "similarity"])
def test_candidates_and_certificate_agree_with_a_grid_over_full_rankings(region):
    generator = np.random.default_rng(2)
    gallery = [_units(generator.normal(size=(80, 6)) + 0.5) for _ in range(2)]
    queries = [_units(generator.normal(size=(9, 6)) + 0.5) for _ in range(2)]
    relevant = [generator.choice(80, size=3, replace=False) for _ in range(9)]
    found = top7.candidates(queries, gallery, relevant, k=7, region=region)
    best = top7.certify(found, seconds=30)

    def naive(weights) -> np.ndarray:
        scores = sum(w * q @ g.T for w, q, g in zip(weights, queries, gallery))
        hits = np.array(
            [np.isin(line[:7], rows) for line, rows in zip(np.argsort(-scores, axis=1), relevant)]
        )
        return (hits * np.cumsum(hits, axis=1) / np.arange(1, 8)).sum(axis=1) / 3

    sums = [(q @ g.T).sum() for q, g in zip(queries, gallery)]
    grid = [np.array([w, 1 - w]) for w in np.linspace(0, 1, 101)]
    if region == "similarity":  # eq. 3: the deeper layer's share is at least the shallower one's
        grid = [weights for weights in grid if weights[1] * sums[1] >= weights[0] * sums[0]]
    for weights in grid[::10]:
        assert np.allclose(found.average_precisions(weights), naive(weights))
    assert best.bound == pytest.approx(best.map) and best.map == pytest.approx(naive(best.weights).mean())
    assert best.map >= max(naive(weights).mean() for weights in grid) - 1e-12


def test_what_does_not_fit_is_refused_in_one_line():
    rows = np.eye(4)
    for queries, gallery, relevant, words in (
        ([rows], [2 * rows], [[0]] * 4, "component 0: row 0 has the norm 2"),
        ([rows], [rows], [[0]] * 3, "3 queries: expected 4 lists of rows from 0 to 3"),
        ([rows], [rows], [[0], [1], [2], [4]], "rows from 0 to 3"),
    ):
        with pytest.raises(top7.Top7Error, match=words):
            top7.candidates(queries, gallery, relevant)


@pytest.mark.parametrize(
    "name", ["top7", *(name for name, path in _modules().items() if ">>>" in path.read_text("utf-8"))]
)
def test_docstring_examples_run(name):
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted and not tried.failed


def test_importing_anything_changes_no_global_state():
    program = f"""
import importlib, json, logging, os, sys, warnings
import faiss, jinja2, joblib, optuna, pandas, scipy.sparse, sklearn, timm, torch, torchvision
import PIL.Image, PIL.PngImagePlugin as png
def state():
    return [repr(warnings.filters), torch.get_num_threads(), torch.get_num_interop_threads(), png.MAX_TEXT_CHUNK,
            png.MAX_TEXT_MEMORY, PIL.Image.MAX_IMAGE_PIXELS, dict(os.environ), repr(logging.getLogger().handlers),
            repr(logging.getLogger("top7").handlers), torch.is_grad_enabled(), str(torch.get_default_dtype())]
before = state()
for name in {["top7", *_modules()]!r}:
    importlib.import_module(name)
print(json.dumps([[a, b] for a, b in zip(before, state()) if a != b]))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [], "an import changed something for the whole process"


def test_imports_run_one_way_between_the_folders_and_in_no_circle():
    modules, imported = _modules(), {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole in modules else node.module)
        imported[name] = (found & set(modules)) - {name}
        floor = FOLDERS.index(name.split(".")[0])
        assert all(FOLDERS.index(other.split(".")[0]) <= floor for other in imported[name]), name
    graphlib.TopologicalSorter(imported).prepare()  # CycleError names the circle
