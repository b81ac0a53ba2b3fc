"""Every benchmark starts: nobody runs them in CI, and what they import moves."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = sorted(path.stem for path in (Path(__file__).parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help(name, monkeypatch, capsys):
    module = importlib.import_module(f"tests.benchmarks.{name}")
    if not hasattr(module, "main"):
        return  # what several of them share
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0 and "--" in capsys.readouterr().out
