"""Reading a range: limits, order, filters, and where a long answer is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from paxon.kvstore.store.items import Item, Row, as_bytes, row, value_bytes
from paxon.kvstore.store.operations import Range
from paxon.kvstore.store.past import View
from paxon.kvstore.store.refusals import LOOK_BYTES, Refusal

__all__ = ["MAX_SORTED", "ORDERS", "ROW_BYTES", "Page", "looked_in_vain", "read_range"]

MAX_SORTED = 20_000
"""Keys of a range in another order than that of keys. Part of the format."""
ROW_BYTES = 512
"""What a row counts for besides its size, for it takes about as long."""

ORDERS: dict[str, Callable[[Item], Any]] = {
    "value": lambda item: as_bytes(item.value),
    "version": lambda item: item.version,
    "created": lambda item: item.created,
    "modified": lambda item: item.modified,
}
"""What ranges can be sorted by, keys excepted."""


class Page(msgspec.Struct, gc=False):
    """The result of a range read."""

    count: int
    more: bool
    rows: list[Row]
    rest: bytes | None = None
    """Where to go on if it was cut; see `Range`."""
    work: int = 0
    """Bytes that it counts for in a reply."""
    looked: int = 0
    """Bytes that looking at keys counts for which it does not hold."""


def read_range(view: View, wanted: Range, *, max_items: int, max_bytes: int) -> Page:
    """Answer a range from a view. Raises `Refusal` if it is too large to be put in order.

    The page is cut after `max_items` keys looked at, or once it holds `max_bytes`. What is sorted
    otherwise than by keys could not be read on from there, so it is refused.
    """
    first, end, looked = wanted.key, wanted.end, 0
    if end is None:
        item = view.get(first)
        count = 0 if item is None else 1
    else:
        item = None
        count = view.count(first, end)
        looked = LOOK_BYTES * view.looks(first, end)
    if wanted.count_only or not count:
        return Page(count, False, [], work=ROW_BYTES, looked=looked)
    if end is None:
        assert item is not None
        items: Iterator[Item] = iter((item,))
    elif wanted.order != "key":
        ordered = _sorted(view, wanted, count)
        items = iter(ordered)
        looked += LOOK_BYTES * count
        if wanted.order == "value":  # (to be copied, some of them: other ones on each server)
            looked += sum(value_bytes(item.value) for item in ordered)
        max_items = MAX_SORTED
    else:
        items = view.items(first, end, backward=wanted.backward)
    page = _page(items, wanted, count, max_items, max_bytes)
    page.looked = looked
    if page.rest is not None and wanted.order != "key":
        raise Refusal(
            f"the range has more than {max_bytes} bytes, too many to be put in the order of their "
            f"{wanted.order}: read them in the order of keys, or a part of them",
            "large",
        )
    return page


def looked_in_vain(view: View, wanted: Range) -> int:
    """Bytes that looking at keys counted for, of a range that was refused."""
    looks = 0 if wanted.end is None else view.looks(wanted.key, wanted.end)
    return LOOK_BYTES * (MAX_SORTED + looks)


def _page(items: Iterator[Item], wanted: Range, count: int, max_items: int, max_bytes: int) -> Page:
    page = Page(count, False, [])
    rows, size, looked = page.rows, 0, 0
    passes = _filter(wanted)
    for item in items:
        if looked >= max_items or size >= max_bytes:
            page.rest = item.key + b"\0" if wanted.backward else item.key
            break
        looked += 1
        if passes is not None and not passes(item):
            continue
        if wanted.limit and len(rows) == wanted.limit:
            page.more = True
            break
        rows.append(row(item, keys_only=wanted.keys_only))
        size += len(item.key) + (0 if wanted.keys_only else value_bytes(item.value))
    page.work = size + ROW_BYTES * max(1, looked)
    return page


def _sorted(view: View, wanted: Range, count: int) -> list[Item]:
    if count > MAX_SORTED:
        raise Refusal(
            f"the range has {count} keys; at most {MAX_SORTED} can be put in the order of their "
            f"{wanted.order}: read them in the order of keys, or a part of them",
            "large",
        )
    assert wanted.end is not None
    items = view.items(wanted.key, wanted.end, backward=False)
    return sorted(items, key=ORDERS[wanted.order], reverse=wanted.backward)


def _filter(wanted: Range) -> Callable[[Item], bool] | None:
    least_modified, most_modified = wanted.min_modified, wanted.max_modified
    least_created, most_created = wanted.min_created, wanted.max_created
    if not (least_modified or most_modified or least_created or most_created):
        return None

    def passes(item: Item) -> bool:
        return (
            item.modified >= least_modified
            and (not most_modified or item.modified <= most_modified)
            and item.created >= least_created
            and (not most_created or item.created <= most_created)
        )

    return passes
