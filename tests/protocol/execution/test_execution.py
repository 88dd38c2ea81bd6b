"""Rule 15: what a command comes to depends on the log alone."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from loguru import logger

from paxon.actors import Execute, Settings, StateMachine
from paxon.actors import messages as wire
from paxon.actors.disk.data_directory import STOPPED_NAME
from paxon.actors.execution.agreed import Change, Limit, first_agreed
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.execution.machine_errors import (
    ALLOWANCE,
    MOST,
    ExecutionFailed,
    MachineFailure,
    with_allowance,
)
from paxon.actors.execution.sessions import Reply
from paxon.actors.limits.allowances import LARGEST_REPLY
from paxon.actors.messages import Batch, CommandReply, Entry, ReplyStatus
from paxon.kvstore import ClusterError, LocalCluster
from paxon.kvstore.cluster.node import ServerStartError, start_server
from paxon.kvstore.store.operations import (
    Compare,
    Executable,
    Operation,
    Put,
    encode_operations,
)
from paxon.kvstore.store.store import KVStore
from tests.harness import Cluster, Register
from tests.ports import own_ports


def nested(depth: int) -> bytes:
    """A msgpack array in an array in an …"""
    return b"\x91" * depth + b"\xc0"


DEPTHS = (1, 900, 980, 1100, 5000)
SURPLUS = [b"\x91\x98\x01\xc4\x01k\xc4\x01v\0\0\0\0" + nested(depth) for depth in DEPTHS]
"""Puts with an element too many, which nests so deep."""
NESTED = [
    b"\x91" + b"\x94\x0a\x90\x91" * depth + b"\x94\x0a\x90\x90\x90" + b"\x90" * depth
    for depth in (8, *DEPTHS[1:])
]
"""Transactions in one another, too deep."""


def application_of(machine: StateMachine) -> Application:
    return Application(machine, first_agreed({}, machine.limits))


def applied(machine: Register, *commands: bytes) -> list[tuple[ReplyStatus, bytes]]:
    """What a fresh state machine answers to these commands, each in a slot of its own."""
    application = application_of(machine)
    replies = []
    for slot, command in enumerate(commands, 1):
        batch = Batch(0, [Entry(0, 1, 0, 0, command)])
        [(_, reply)] = application.execute(slot, encode_batch(batch))
        replies.append((ReplyStatus(reply.status), reply.payload))
    return replies


# --- what enters the log --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "union", [wire.PeerMessage, wire.ClientMessage, wire.ServerReply, Operation, Executable]
)
def test_nothing_that_is_decoded_has_room_for_more(union: Any) -> None:
    for kind in (*get_args(union), wire.Entry, wire.Batch, wire.Accepted, Change, Compare):
        assert kind.__struct_config__.forbid_unknown_fields, kind


@pytest.mark.parametrize("kind", [wire.Entry, wire.Batch, *get_args(wire.ClientMessage)])
def test_surplus_elements_are_refused_before_anyone_looks_how_deep_they_are(kind: Any) -> None:
    tag = kind.__struct_config__.tag
    fields = len(kind.__struct_fields__) + (tag is not None)
    decoder = msgspec.msgpack.Decoder(kind)
    for depth in (1, 5000):
        frame = bytes([0x90 + fields + 1]) + bytes([tag or 0]) + b"\x00" * (fields - 1)
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(frame + nested(depth))


def test_a_command_that_the_store_could_not_execute_stays_out_of_the_log() -> None:
    cluster = Cluster(3, machine=KVStore).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    before = cluster.servers[1].log.last
    for seq, command in enumerate([*SURPLUS, *NESTED, b"", b"\xc1", b"\x91\x92\x09\xa1k"], 1):
        cluster.command(1, session, seq, command)
        reply = cluster.reply_to(seq)
        assert reply is not None and reply.status == ReplyStatus.INVALID
        assert b"not a list of store operations" in reply.payload
    assert cluster.servers[1].log.last == before


def test_one_that_got_into_the_log_all_the_same_fails_alike_at_every_depth() -> None:
    """A leader of an older release may have proposed it."""

    def at(depth: int, call: Callable[[], Any]) -> Any:
        return at(depth - 1, call) if depth else call()

    store: Any = KVStore
    seen = [at(depth, lambda: applied(store(), *SURPLUS, *NESTED)) for depth in (0, 50, 300)]
    assert seen[0] == seen[1] == seen[2]
    assert {status for status, _ in seen[0]} == {ReplyStatus.FAILED}


def test_what_the_check_decoded_is_what_is_executed() -> None:
    store = KVStore()
    commands = [b"\x91\x93\x01\xc4\x01k\xc4\x01" + bytes([n]) for n in range(200)]
    for command in commands:
        store.check(command)
    for revision, command in enumerate(commands, 2):
        assert msgspec.msgpack.decode(store.apply(command)) == [revision]
    assert not store._checked
    assert store._state.data[b"k"].value == bytes([199])
    for n in range(2000):  # of commands that never come back not all are kept
        store.check(b"\x91\x93\x01\xc4\x01k\xc4\x02" + n.to_bytes(2, "big"))
    assert len(store._checked) <= 512
    long = [encode_operations([Put(b"k", bytes([n]) * (1 << 20))]) for n in range(20)]
    for command in long:
        store.check(command)
        kept = [command for command, *_ in store._checked.values()]
        assert command in kept and sum(map(len, kept)) <= 8 << 20
    store.apply(long[-1])
    assert long[-1] not in [command for command, *_ in store._checked.values()]


def test_the_application_in_the_same_process_is_told_too() -> None:
    """Before anything of it is in the log."""
    cluster = Cluster(1, machine=KVStore).start()
    cluster.lead(1)
    last = cluster.servers[1].log.last
    future = cluster.servers[1].on_local(Execute(SURPLUS[0]))
    with pytest.raises(RuntimeError, match="not a list of store operations"):
        future.get(timeout=0)
    assert cluster.servers[1].log.last == last


# --- recursion ------------------------------------------------------------------------------------


class Deep(Register):
    """Nests as many calls as a command says."""

    def apply(self, command: bytes) -> bytes:
        if command.startswith(b"["):
            return repr(msgspec.json.decode(command)).encode()[:3]
        return b"%d" % self.nest(int(command))

    def nest(self, calls: int) -> int:
        return 0 if calls <= 1 else 1 + self.nest(calls - 1)


def deepest() -> int:
    """How many calls may nest here."""
    machine, low, high = Deep(), 0, 4 * MOST
    while low < high:
        middle = (low + high + 1) // 2
        try:
            machine.nest(middle)
            low = middle
        except RecursionError:
            high = middle - 1
    return low


def test_the_room_for_recursion_is_the_same_wherever_the_caller_stands() -> None:
    def at(depth: int) -> int:
        return at(depth - 1) if depth else with_allowance(deepest)

    seen = {at(0), at(7), at(100), at(600)}
    threads = [threading.Thread(target=lambda: seen.add(at(3))) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len(seen) == 1
    assert ALLOWANCE - 10 <= seen.pop() <= ALLOWANCE


@pytest.fixture
def recursion_limit() -> Any:
    import sys

    before = sys.getrecursionlimit()
    yield sys.setrecursionlimit
    sys.setrecursionlimit(before)


def test_it_is_the_same_whatever_limit_the_process_has(recursion_limit: Any) -> None:
    import sys

    expected = with_allowance(deepest)
    for limit in (sys.getrecursionlimit() + 77, 5000, MOST):
        recursion_limit(limit)
        assert with_allowance(deepest) == expected
        assert sys.getrecursionlimit() == limit, "other threads may stand deep already"
    recursion_limit(MOST + 1)
    with pytest.raises(MachineFailure, match="a process of its own"):
        with_allowance(deepest)


def test_a_machine_that_recurses_fails_the_command_alike_on_every_server() -> None:
    def at(depth: int, call: Callable[[], Any]) -> Any:
        return at(depth - 1, call) if depth else call()

    commands = [b"%d" % n for n in range(ALLOWANCE - 30, ALLOWANCE + 5)]
    commands += [b"[" * n + b"]" * n for n in range(ALLOWANCE - 30, ALLOWANCE + 5)]
    shallow = at(0, lambda: applied(Deep(), *commands))
    assert shallow == at(333, lambda: applied(Deep(), *commands))
    failed = {payload for status, payload in shallow if status == ReplyStatus.FAILED}
    assert failed == {b"RecursionError: the command nested more than 1000 calls"}
    assert {status for status, _ in shallow} == {ReplyStatus.OK, ReplyStatus.FAILED}


def test_what_is_compared_has_the_same_room_wherever_the_caller_stands() -> None:
    """Else equal servers would differ, where one finds it and another does not."""
    seen: list[int] = []

    class Comparing(Register):
        def comparable(self, reply: bytes) -> bytes:
            seen.append(deepest())
            return reply

    def at(depth: int) -> object:
        return at(depth - 1) if depth else applied(Comparing(), b"x")

    for depth in (0, 333, 0):
        at(depth)
    assert len(seen) == 3 and len({*seen}) == 1


# --- what depends on the process ------------------------------------------------------------------


def direct() -> None:
    raise MemoryError


def wrapped() -> None:
    try:
        raise MemoryError("no room")
    except MemoryError as error:
        raise ValueError("cannot parse") from error


def hidden() -> None:
    try:
        raise MemoryError
    except MemoryError:
        raise ValueError("cannot parse") from None


def grouped() -> None:
    raise ExceptionGroup("several", [ValueError("a"), ExceptionGroup("more", [MemoryError()])])


def twice() -> None:
    try:
        hidden()
    except ValueError as error:
        raise KeyError("k") from error


def ended() -> None:
    raise SystemExit(3)


def interrupted() -> None:
    raise KeyboardInterrupt


def closed() -> None:
    raise GeneratorExit


def cancelled() -> None:
    raise asyncio.CancelledError


def hidden_end() -> None:
    try:
        raise SystemExit(2)
    except SystemExit as error:
        raise ValueError("usage") from error


def circular() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


KINDS = [direct, wrapped, hidden, grouped, twice]
COMMANDS_OWN = [ended, closed, cancelled, hidden_end, interrupted, circular]
"""What nobody outside can make a server's thread raise."""


@pytest.mark.parametrize("kind", COMMANDS_OWN)
def test_whatever_else_is_raised_is_the_commands_error(kind: Callable[[], None]) -> None:
    """Else it would stop one server after the other, and again at each start."""

    class Fails(Register):
        def apply(self, command: bytes) -> bytes:
            kind()
            return b""

    cluster = Cluster(1, machine=Fails).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"x")
    assert [reply.status for reply in cluster.told(CommandReply)] == [ReplyStatus.FAILED]


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"x": 3}, r"limits\['x'\] = 3: write Limit\("),
        ([1], "has to be a dict of Limit"),
        ({3: Limit(default=1, least=1, most=2, before=1)}, "its name has to be a word"),
        ({"a b": Limit(default=1, least=1, most=2, before=1)}, "its name has to be a word"),
        ({"x" * 101: Limit(default=1, least=1, most=2, before=1)}, "its name has to be a word"),
        ({"max_sessions": Limit(default=1, least=1, most=2, before=1)}, "no setting of Paxon's"),
        ({"x": Limit(default=5, least=1, most=2, before=1)}, "default has to be from least"),
        ({"x": Limit(default="5", least=1, most=2, before=1)}, "whole numbers"),  # type: ignore[arg-type]
        ({"x": Limit(default=1, least=1, most=2**63, before=1)}, "within 63 bits"),
    ],
)
def test_limits_that_are_none(limits: Any, text: str) -> None:
    machine = type("Strange", (Register,), {"limits": limits})
    with pytest.raises(ServerStartError, match=text):
        start_server(
            Settings(cluster="test", server=1, servers=(1,)), machine(),
            peers={1: "tcp://127.0.0.1:1"}, client_bind="tcp://127.0.0.1:2", durability="memory",
        )  # fmt: skip
    with pytest.raises(ClusterError, match=text):
        machine.__qualname__ = "Strange"
        LocalCluster(1, machine=machine)


@pytest.mark.parametrize(("method", "why"), [("agree", "every value"), ("made", "must not")])
def test_what_a_machine_has_to_take_and_does_not(method: str, why: str) -> None:
    def exits(_self: Any, what: object) -> None:
        raise SystemExit(what)

    machine: Any = type("Choosy", (Register,), {method: exits})
    with pytest.raises(ServerStartError, match=rf"Choosy.{method}\(\) raised SystemExit.*{why}"):
        start_server(
            Settings(cluster="test", server=1, servers=(1,)), machine(),
            peers={1: "tcp://127.0.0.1:1"}, client_bind="tcp://127.0.0.1:2", durability="memory",
        )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_depends_on_the_process_stops_the_server(kind: Callable[[], None]) -> None:
    """It happens to this server and not to the others: an error reply would make them differ."""

    class Fails(Register):
        def apply(self, command: bytes) -> bytes:
            kind()
            return b""

    cluster = Cluster(1, machine=Fails).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    with pytest.raises(ExecutionFailed, match=r"slot 2 .*Fails\.apply\(\)"):
        cluster.command(1, session, 1, b"x")
    assert not cluster.told(CommandReply)


@pytest.mark.parametrize("method", ["advance", "wake", "next_wakeup"])
def test_one_in_the_machines_other_methods_stops_it_too(method: str) -> None:
    kind = type("Fails", (Register,), {"next_wakeup": lambda _self: 1})
    setattr(kind, method, lambda *_arguments: direct())
    application = application_of(kind())
    with pytest.raises(ExecutionFailed, match=rf"Fails\.{method}\(\)"):
        for slot in (1, 2):
            application.execute(slot, encode_batch(Batch(slot, [Entry(0, slot, 0, 0, b"x")])))


def test_a_machine_that_does_no_more_than_it_must() -> None:
    class Least(StateMachine):
        def apply(self, command: bytes) -> bytes:
            return command

        snapshot = restore = None  # type: ignore[assignment]

    application = application_of(Least())
    reply = application.query(b"x")
    assert reply.status == ReplyStatus.FAILED and b"answers no queries" in reply.payload
    assert not application.renews(b"x") and not application.machine.wake(1)


@pytest.mark.parametrize("kind", [*KINDS, *COMMANDS_OWN])
def test_in_a_query_it_is_an_answer(kind: Callable[[], None]) -> None:
    class Fails(Register):
        def query(self, query: bytes) -> bytes:
            kind()
            return b""

    reply = application_of(Fails()).query(b"x")
    assert reply.status == ReplyStatus.FAILED and reply.payload


@pytest.mark.parametrize("too_long", [False, True])
def test_an_answer_that_no_frame_takes_is_an_error(too_long: bool) -> None:
    class Long(Register):
        def query(self, query: bytes) -> bytes:
            return bytes(LARGEST_REPLY + too_long)

    reply = application_of(Long()).query(b"")
    assert (b"at most %d can be sent" % LARGEST_REPLY in reply.payload[:200]) is too_long
    assert reply.status == (ReplyStatus.FAILED if too_long else ReplyStatus.OK)


class Picky(Register):
    def check(self, command: bytes) -> None:
        if command == b"bad":
            raise ValueError

    def renews(self, command: bytes) -> bool:
        return command != b"odd" or 1 // 0 > 0


OUTSIDE = ("watch", "unwatch", "happened", "keeps", "watched_through", "figures", "digest")


def test_what_is_no_part_of_the_state_stops_nobody() -> None:
    def exits(*_: object) -> None:
        raise SystemExit("by design")

    machine: Any = type("Broken", (Register,), dict.fromkeys(OUTSIDE, exits))
    application, lines = application_of(machine()), list[str]()
    sink = logger.add(lines.append, format="{message}")
    assert application.watch(1, b"") == Reply(ReplyStatus.FAILED, b"SystemExit: by design")
    application.unwatch(1)
    assert application.happened() is None
    assert application.keeps(1) is False
    assert application.watched_through() == b""
    logger.remove(sink)
    assert lines == ["watches of Broken: SystemExit: by design\n"] * 4
    assert (application.digest(), application.figures()) == ("", {})


@pytest.mark.parametrize(
    "told",
    [{"x": 1 << 64}, {"x": -(1 << 63) - 1}, {"\ud800": 1}, {"x" * 100_000: 1}, {"x": math.nan}],
)
def test_figures_that_no_message_can_hold_are_not_told(told: dict[str, int]) -> None:
    """Whoever asked a server how it is would have stopped it, and so all servers, one by one."""
    machine: Any = type(
        "Odd", (Register,), {"figures": lambda _: told, "digest": lambda _: "\ud800"}
    )
    application = application_of(machine())
    assert (application.digest(), application.figures()) == ("", {})
    machine.digest, machine.figures = lambda _: "d" * 100_000, lambda _: {"x": (1 << 64) - 1}
    assert (application.digest(), application.figures()) == ("", {"x": (1 << 64) - 1})


def test_who_renews_says_so_of_what_may_enter_the_log() -> None:
    application = application_of(Picky())
    largest = application.agreed.max_command_bytes
    assert application.renews(b"x") and application.renews(bytes(largest))
    for other in (b"bad", b"odd", bytes(largest + 1)):
        assert not application.renews(other)


class Moody(Register):
    """Runs out of memory while `short` is set."""

    short = True

    def apply(self, command: bytes) -> bytes:
        if command == b"much" and type(self).short:
            raise MemoryError
        return super().apply(command)


def test_the_slot_that_stopped_a_server_is_named_on_its_disk(tmp_path: Path) -> None:
    stopped: list[BaseException] = []
    done = threading.Event()

    def failed(error: BaseException) -> None:
        stopped.append(error)
        done.set()

    def start() -> Any:
        peer, client = own_ports(2)
        return start_server(
            Settings(cluster="test", server=1, servers=(1,)), Moody(),
            peers={1: f"tcp://127.0.0.1:{peer}"}, client_bind=f"tcp://127.0.0.1:{client}",
            directory=tmp_path, on_failed=failed,
        )  # fmt: skip

    Moody.short = True
    server = start()
    while not isinstance(_outcome(server, b"little"), bytes):
        pass
    server.ask(Execute(b"much"), block=False)
    assert done.wait(30)
    assert isinstance(stopped[0], ExecutionFailed)
    note = (tmp_path / STOPPED_NAME).read_text()
    assert note.startswith(f"slot {stopped[0].slot}\nexecuting slot {stopped[0].slot} stopped")
    assert "MemoryError" in note and "Moody.apply()" in note

    Moody.short = False  # it was short of memory, and is no longer
    server = start()
    try:
        while not isinstance(_outcome(server, b"more"), bytes):
            pass
        assert not (tmp_path / STOPPED_NAME).exists()
    finally:
        server.stop()


def _outcome(server: Any, command: bytes) -> object:
    try:
        return server.ask(Execute(command)).get(timeout=10)
    except RuntimeError as error:  # nobody leads yet
        return error


# --- what methods return --------------------------------------------------------------------------


@pytest.mark.parametrize("result", [None, "text", 7, bytearray(b"x"), memoryview(b"x")])
@pytest.mark.parametrize("method", ["apply", "query"])
def test_what_is_not_bytes_is_the_commands_error_and_says_whose(method: str, result: Any) -> None:
    machine: Any = type("Sloppy", (Register,), {method: lambda _self, _text: result})
    cluster = Cluster(3, machine=machine).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    if method == "apply":
        cluster.execute(1, session, b"one", b"two")
        reply: Any = cluster.reply_to(2)
    else:
        cluster.query(1)
        cluster.stabilize()
        [reply] = cluster.answers()
    assert reply.status == ReplyStatus.FAILED
    kind = type(result).__name__
    assert reply.payload == f"TypeError: Sloppy.{method}() returned {kind}, not bytes".encode()
    cluster.pass_time(0.2)
    assert len({cluster.servers[s].application.executed for s in cluster.ids}) == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_an_exception_that_cannot_be_printed_is_an_error_reply_like_any_other(
    kind: type[BaseException],
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise kind("no text")

    class Odd(Register):
        def apply(self, command: bytes) -> bytes:
            raise Mute

    assert applied(Odd(), b"x") == [(ReplyStatus.FAILED, b"Mute")]


class Raises:
    """In place of whatever an exception, or a result, is asked for."""

    def __get__(self, *_: object) -> Any:
        raise SystemExit


class Text(str):
    """As a `__str__` may return it."""

    def __getitem__(self, _: object) -> Text:
        return self

    def __format__(self, _: object) -> str:
        raise SystemExit


NAMELESS = type("Meta", (type,), {"__name__": Raises()})
ODD = {
    "cause": type("Odd", (Exception,), {"__cause__": Raises()}),
    "context": type("Odd", (Exception,), {"__context__": Raises()}),
    "class": type("Odd", (Exception,), {"__class__": Raises()}),
    "members": type("Odd", (ExceptionGroup,), {"exceptions": Raises()}),
    "text": type("Odd", (Exception,), {"__str__": lambda _: Text("x")}),
    "name": NAMELESS("Odd", (Exception,), {}),
}


@pytest.mark.parametrize("what", ODD)
def test_whatever_an_exception_is_like_it_is_an_error_reply(what: str) -> None:
    """One that stopped this server would stop every other, and each of them at its next start."""

    class Odd(Register):
        def apply(self, command: bytes) -> bytes:
            raise ODD[what](*(("x", [ValueError()]) if what == "members" else ()))

        def query(self, query: bytes) -> bytes:
            return self.apply(query)

    [(status, text)] = applied(Odd(), b"x")
    assert (status, text.partition(b":")[0]) == (ReplyStatus.FAILED, b"Odd")
    reply = application_of(Odd()).query(b"x")
    assert (reply.status, reply.payload) == (status, text)


@pytest.mark.parametrize("member", ["__bytes__", "__class__"])
def test_whatever_a_result_is_like_it_is_an_error_reply(member: str) -> None:
    base = bytes if member == "__bytes__" else object
    odd = type("Odd", (base,), {member: Raises()})()
    given = type("Given", (Register,), {"apply": lambda *_: odd})
    assert applied(given(), b"x") == [(ReplyStatus.FAILED, b"SystemExit")]


@pytest.mark.parametrize("method", ["comparable", "reply_bytes"])
@pytest.mark.parametrize("answer", [lambda *_: 1 / 0, lambda *_: None])
def test_a_machine_that_cannot_tell_what_to_compare_or_count_stops_no_server(
    answer: Any, method: str
) -> None:
    machine: Any = type("Vague", (Register,), {method: answer})
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    assert applied(machine(), b"x", b"y") == applied(Register(), b"x", b"y")
    logger.remove(sink)
    assert len(lines) == 1 and lines[0].startswith(f"Vague.{method}() failed in slot 1: ")
    machine = type("Short", (Register,), {method: lambda *_: direct()})
    with pytest.raises(ExecutionFailed, match=rf"Short.{method}\(\) ended in MemoryError"):
        applied(machine(), b"x")
    machine = type("Late", (Register,), {"enter": lambda *_: 1 / 0})
    with pytest.raises(MachineFailure, match=r"Late.enter\(\) raised Zero.* must not"):
        applied(machine(), b"x")


def test_an_image_that_cannot_be_restored_says_whose_fault_it_is() -> None:
    class Broken(Register):
        def restore(self, snapshot: bytes) -> None:
            raise KeyError("total")

    application = application_of(Broken())
    image = b"".join(application.image())
    for refuse in (application.restore, application.prove):
        with pytest.raises(MachineFailure, match=r"Broken\.restore\(\) raised KeyError: 'total'"):
            refuse(image)
    assert KVStore.snapshots_are_sound and not application.machine.snapshots_are_sound


class Priceless(Register):
    """Cannot say what commands cost."""

    def cost(self, command: bytes) -> int:
        raise KeyError("no price")


def test_a_state_machine_that_cannot_tell_a_cost_stops_nobody() -> None:
    cluster = Cluster(3, machine=Priceless).start()
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.command(1, session, 1, b"c")
    cluster.stabilize()
    reply = cluster.reply_to(1)
    assert reply is not None and reply.status == ReplyStatus.INVALID
    assert b"KeyError: 'no price'" in reply.payload
    assert cluster.servers[1].role == "leader"
