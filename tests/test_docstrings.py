"""The first line of every docstring of the product code is one whole sentence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("competition", "features", "tuning", "submissions")


def broken_docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and not text.splitlines()[0].endswith((".", ":", "?")):
                yield f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"


def test_docstrings_begin_with_a_whole_sentence():
    files = [ROOT / "top7.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    assert [line for path in files for line in broken_docstrings(path)] == []
