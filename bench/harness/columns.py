"""Columns that tables of several benches have: each is a head and how a row fills it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paxon.bench.harness.report import Column, Section, count, microseconds, milliseconds, small

__all__ = [
    "RATE",
    "P50",
    "P99",
    "P999",
    "LONGEST_WAIT",
    "SERVER_CPU",
    "CLIENT_CPU",
    "FAILED",
    "per_operation",
    "per_slot",
    "per_second",
    "table_of",
]

RATE = Column("op/s", lambda row: count(row.rate))
P50 = Column("p50\nms", lambda row: milliseconds(row.p50))
P99 = Column("p99\nms", lambda row: milliseconds(row.p99))
P999 = Column("p99.9\nms", lambda row: milliseconds(row.p999))
LONGEST_WAIT = Column("longest\nwait ms", lambda row: f"{row.longest_wait * 1e3:,.0f}")
SERVER_CPU = Column("servers\nµs/op", lambda row: microseconds(row.server_cpu))
CLIENT_CPU = Column("clients\nµs/op", lambda row: microseconds(row.client_cpu))
FAILED = Column("failed", lambda row: str(row.failed))


def per_operation(counter: str, head: str) -> Column:
    """A counter of the servers, for each operation."""
    return Column(f"{head}\n/op", lambda row: small(row.per_operation(counter)))


def per_slot(counter: str, head: str) -> Column:
    """The same, for each chosen slot."""
    return Column(f"{head}\n/slot", lambda row: small(row.per_slot(counter)))


def per_second(counter: str, head: str) -> Column:
    """The same, for each second."""
    return Column(f"{head}\n/s", lambda row: count(row.per_second(counter)))


def table_of(title: str, columns: Sequence[Column], rows: Sequence[Any], **more: Any) -> Section:
    """A line for each row."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Section(title, [column.head for column in columns], cells, **more)
