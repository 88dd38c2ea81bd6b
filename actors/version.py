"""The release, as `paxon status` shows it for each server; tests compare it with pyproject.toml."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
