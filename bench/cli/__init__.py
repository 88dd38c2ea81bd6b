"""The command line of the benches: `app` makes a command of each."""

from __future__ import annotations

__all__: list[str] = []
