"""What becomes of calls that raise: whatever that is, all servers come to the same end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paxon import Replicated, command
from paxon.kvstore.objects.calls import comparable, decode_answer, encode
from paxon.kvstore.objects.machine import ObjectMachine, machine_of


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

    assert names_of(machine_of(Fails()), "declared", "odd", "") == ["Declared", "Odd", ""]


class Picky(msgspec.Struct):
    how: str

    def __post_init__(self) -> None:
        if self.how:
            raise {"key": KeyError, "exit": SystemExit, "memory": MemoryError}[self.how]


def test_what_an_arguments_own_class_raises_is_its_own_calls_error() -> None:
    """(A client raises it itself, unless its class is another.)"""

    class Takes(Replicated):
        @command(raises=(KeyError,))
        def fail(self, how: Picky) -> None: ...

    machine = machine_of(Takes())
    given = [{"how": how} for how in ("", "key", "exit", "")]
    assert names_of(machine, *given) == ["", "KeyError", "SystemExit", ""]
    with pytest.raises(MemoryError):
        names_of(machine, {"how": "memory"})


def names_of(machine: ObjectMachine, *hows: Any) -> list[str]:
    reply = machine.apply(encode([("fail", {"how": how}) for how in hows]))
    return [outcome.name for outcome in decode_answer(reply).outcomes]


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
