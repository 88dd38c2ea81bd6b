"""Watches: reads that wait, and what is built on them (docs/design/watches.md).

Read `side` (which server holds them, and moving on; no I/O), `events` (what callers see, and how
far they have been told), then `watch`, `async_watch`, and `mirror` (a mapping that follows);
`faces` has the clients' methods.
"""

from __future__ import annotations

__all__: list[str] = []
