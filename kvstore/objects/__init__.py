"""Your own class, replicated (docs/objects.md)."""

from __future__ import annotations

__all__: list[str] = []
