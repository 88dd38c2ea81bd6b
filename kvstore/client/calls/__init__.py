"""Requests to the store, checked before they are sent, and its answers as callers see them.

Read `answers` (entries and results), `keys` (a key, a prefix or a range), `conditions` and
`comparing` (of transactions), then `calls`: one class for each request, which knows its operation
on the wire and what to make of the answer, and nothing of waiting. `faces` and `async_faces` are
the methods of `Client` and `AsyncClient` that follow from it; `drafts` is what `transact` keeps of
a try, and `tries` when there is another.
"""

from __future__ import annotations

__all__: list[str] = []
