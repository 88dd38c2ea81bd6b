"""Paxon beside what its users would pick instead: etcd, Redis and PySyncObj, in one run.

`run.py` is the place to begin: it decides what is measured next to what. docs/peers.md tells how
each system is set up and driven, and what is not equal.
"""

from __future__ import annotations

__all__: list[str] = []
