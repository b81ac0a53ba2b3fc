"""Fixtures every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with the grocery competition and pretrained weights; skips, with the reason, without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "grocery").is_dir():
        pytest.skip(f"{folder} is absent: this test needs the grocery images and pretrained weights")
    return folder
