"""The command line of the benches: `app` makes the commands, `figures` is the README's table."""

from __future__ import annotations

__all__: list[str] = []
