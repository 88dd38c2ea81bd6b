"""What a benchmark can raise."""

from __future__ import annotations

from paxon.kvstore.errors import PaxonError

__all__ = ["BenchError"]


class BenchError(PaxonError):
    """A benchmark cannot be run or its results cannot be written; one sentence for people."""
