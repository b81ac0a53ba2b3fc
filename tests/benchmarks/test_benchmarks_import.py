"""Every benchmark of the documentation can at least be started."""

import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path != Path(__file__)))
def test_a_benchmark_imports(name):
    importlib.import_module(f"tests.benchmarks.{name}")
