"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds as "1 s" (at least), "45 s", "12 min" or "3.4 h"."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
