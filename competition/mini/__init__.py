"""The embedded mini competition: a beauty shop drawn by code."""

from competition.mini.build import build

__all__ = ["build"]
