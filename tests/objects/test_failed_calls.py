"""What becomes of calls that raise: whatever that is, all servers come to the same end."""

from __future__ import annotations

from typing import Any

import pytest

from paxon import Replicated, command
from paxon.kvstore.objects.calls import comparable, decode_answer, encode
from paxon.kvstore.objects.machine import machine_of


def test_whatever_an_exception_is_like_it_is_its_own_calls_error() -> None:
    def leave(_: object) -> Any:
        raise SystemExit

    declared: Any = type("Declared", (Exception,), {"args": property(leave)})
    odd: Any = type("Odd", (Exception,), {"__class__": property(leave)})

    class Fails(Replicated):
        @command(raises=(declared,))
        def fail(self, how: str) -> None:
            if how:
                raise {"declared": declared, "odd": odd}[how]

    calls = encode([("fail", {"how": how}) for how in ("declared", "odd", "")])
    outcomes = decode_answer(machine_of(Fails()).apply(calls)).outcomes
    names = [(outcome.name, outcome.declared) for outcome in outcomes]
    assert names == [("Declared", True), ("Odd", False), ("", False)]


class Texts(Replicated):
    """What it raises reads otherwise on each server."""

    text = ""

    @command(raises=(KeyError,))
    def fail(self, how: str) -> str:
        if how == "declared":
            raise KeyError({self.text})
        if how == "well":
            return "x" * 200
        raise ValueError(self.text)


def test_how_long_the_texts_of_failed_calls_are_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor in another Python: neither what is kept, nor what fits into a reply."""
    monkeypatch.setattr("paxon.kvstore.objects.machine.LARGEST_REPLY", most := (1 << 16) + 9000)
    ends: list[list[tuple[int, bytes]]] = []
    for text in ("", "é" * 3000):
        machine = machine_of(type("Texts", (Texts,), {"text": text})())
        ends.append([])
        for hows in (["odd"], ["declared"], ["odd", "well", "declared"], ["odd"] * 99, ["well"]):
            reply = machine.apply(encode([("fail", {"how": how}) for how in hows]))
            assert len(reply) <= min(machine.reply_bytes(reply) + 2 * len(hows), most)
            ends[-1].append((machine.reply_bytes(reply), comparable(reply)))
        more = machine.apply(encode([("fail", {"wrong" + text: 1})]))
        ends[-1].append((machine.reply_bytes(more), comparable(more)))
    assert ends[0] == ends[1]
    assert machine.reply_bytes(reply) == len(reply) < 300
