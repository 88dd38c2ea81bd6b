"""What execution depends on is agreed: in force by slot, in snapshots, the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec
import pytest
from loguru import logger

from paxon.actors import Limit, Settings, UnknownSetting
from paxon.actors.execution.agreed import (
    BEFORE,
    KNOWS,
    NAMES,
    OWN,
    Agreed,
    Change,
    Features,
    Limits,
    agreed_values,
    apply_change,
    check_rising,
    check_values,
    decode_agreed,
    encode_agreed,
    first_agreed,
)
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.messages import (
    NO_OP,
    SETTINGS,
    Batch,
    ChangeSettings,
    Entry,
    HeartbeatReply,
    PreVoteReply,
    QueryReply,
    ReplyStatus,
)
from paxon.kvstore.store.operations import Append, Put, decode_results, encode_operations
from paxon.kvstore.store.store import KVStore
from paxon.transport import MAX_FRAME_BYTES
from tests.harness import Cluster, Register

OPEN = Entry(0, 1, 0, 0, b"")


class Bounded(Register):
    """A state machine with limits of its own."""

    limits: ClassVar[Limits] = {
        "most": Limit(default=10, least=1, most=100, before=3),
        "depth": Limit(default=5, least=1, most=9, before=5),
    }

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, int]] = []

    def agree(self, limits: Mapping[str, int]) -> None:
        self.told.append(dict(limits))

    def apply(self, command: bytes) -> bytes:
        assert self.told, "told before anything is executed"
        if len(self.applied) >= self.told[-1]["most"]:
            raise ValueError("full")
        return super().apply(command)

    def restore(self, snapshot: bytes) -> None:
        self.told_at_restore = dict(self.told[-1])
        super().restore(snapshot)


def application(machine: Any = None, **given: float) -> Application:
    chosen = machine if machine is not None else Register()
    return Application(chosen, first_agreed(given, chosen.limits))


def change(since: int, **values: float) -> Entry:
    return Entry(0, 7, SETTINGS, 0, msgspec.msgpack.encode(Change(since, values)))


Ended = tuple[ReplyStatus, bytes]


def execute(app: Application, *entries: Entry, time: int = 0) -> list[Ended]:
    value = encode_batch(Batch(time, list(entries)))
    return [(r.status, r.payload) for _, r in app.execute(app.executed + 1, value)]


# --- in force by slot ----------------------------------------------------------------------------


def test_a_change_is_in_force_from_the_slot_after_it() -> None:
    app = application()
    ((status, payload), *_) = execute(app, change(0, max_sessions=1), OPEN, OPEN)
    assert status == ReplyStatus.OK
    assert decode_agreed(payload, {}).changed_at == 1
    assert len(app.sessions) == 2  # the rest of its own slot was executed as before
    execute(app, OPEN)
    assert len(app.sessions) == 1


def test_sessions_expire_by_the_time_to_live_that_is_agreed() -> None:
    app = application(session_ttl=100.0)
    execute(app, OPEN, time=1 * 10**9)
    execute(app, change(0, session_ttl=5.0), time=50 * 10**9)
    assert len(app.sessions) == 1
    execute(app, time=50 * 10**9)
    assert len(app.sessions) == 0


def test_a_change_that_is_agreed_already_is_none() -> None:
    """Whoever asks again, since the answer was lost, is told the slot of the first."""
    app = application()
    first = execute(app, change(0, max_sessions=5))
    assert execute(app, change(0, max_sessions=5)) == first
    assert app.agreed.changed_at == 1


def test_a_late_copy_of_a_change_undoes_nothing() -> None:
    app = application()
    execute(app, change(0, max_sessions=5))
    execute(app, change(1, max_sessions=6))
    ((status, payload),) = execute(app, change(0, max_sessions=5))
    assert status == ReplyStatus.FAILED
    assert b"changed meanwhile, in slot 2" in payload
    assert app.agreed.max_sessions == 6


def test_two_changes_in_one_slot_build_on_each_other() -> None:
    app = application()
    execute(app, change(0, max_sessions=5), change(1, session_ttl=9.0), change(0, max_sessions=8))
    assert (app.agreed.max_sessions, app.agreed.session_ttl) == (5, 9.0)
    assert app.agreed.changed_at == 1


def test_an_empty_change_tells_what_is_in_force() -> None:
    app = application(max_sessions=77)
    ((status, payload),) = execute(app, change(0))
    assert status == ReplyStatus.OK
    assert decode_agreed(payload, {}) == app.agreed
    assert app.agreed.changed_at == 0


def test_settings_are_part_of_the_digest() -> None:
    one, other = application(), application()
    execute(one, change(0, max_sessions=5))
    execute(other, change(0))
    assert one.digest() != other.digest()


# --- snapshots and older images ------------------------------------------------------------------


def test_a_snapshot_carries_them_whatever_the_server_was_told() -> None:
    """The scenario that split states: all restart with another limit, one has a fresh snapshot."""
    app = application(max_sessions=3)
    execute(app, OPEN, OPEN, OPEN)
    other = application(max_sessions=20)
    other.restore(b"".join(app.image()))
    assert other.agreed == app.agreed
    for _ in range(3):
        execute(app, OPEN)
        execute(other, OPEN)
    assert other.digest() == app.digest()
    assert len(other.sessions) == 3


def test_a_value_that_an_image_lacks_is_that_of_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = msgspec.msgpack.decode(encode_agreed(application().agreed))
    del whole["max_outstanding"], whole["digest_version"]
    monkeypatch.setitem(OWN, "max_outstanding", (5, 1, 65_536, 1024))  # a later release's default
    found = decode_agreed(msgspec.msgpack.encode(whole), Bounded.limits)
    assert found.max_outstanding == BEFORE["max_outstanding"] == 1024
    assert found.machine == {"most": 3, "depth": 5}  # and not the machine's own default


def test_every_setting_has_all_that_it_needs() -> None:
    assert set(BEFORE) | {"machine"} == set(Agreed.__struct_fields__)
    for name, (default, _, _, before) in OWN.items():
        assert check_values({name: default}, {}) == check_values({name: before}, {}) == ""
    for limit in KVStore.limits.values():
        assert limit.least <= limit.before <= limit.most
        assert limit.least <= limit.default <= limit.most


def test_a_frame_holds_the_largest_command_and_the_largest_reply() -> None:
    spare = 1 << 20
    assert OWN["max_command_bytes"][2] + spare < MAX_FRAME_BYTES
    limits = KVStore.limits
    reply = limits["max_reply_bytes"].most + limits["max_key_bytes"].most
    assert reply + spare < MAX_FRAME_BYTES
    scan = limits["max_scan_bytes"].most + limits["max_value_bytes"].most
    assert scan + spare < MAX_FRAME_BYTES


@pytest.mark.parametrize("where", ["top", "machine"])
def test_a_setting_that_this_release_does_not_know_is_no_default(where: str) -> None:
    whole = msgspec.msgpack.decode(encode_agreed(application().agreed))
    (whole if where == "top" else whole["machine"])["patience"] = 3
    with pytest.raises(UnknownSetting, match="'patience' that neither this release nor"):
        decode_agreed(msgspec.msgpack.encode(whole), {})
    with pytest.raises(UnknownSetting, match="patience"):
        apply_change(application().agreed, Change(0, {"patience": 3}), 1, {})


def test_what_may_not_fall_may_be_set_to_what_it_is() -> None:
    limits = {"version": Limit(default=2, least=1, most=3, before=1, rises=True)}
    agreed = first_agreed({}, limits)
    assert check_rising(agreed, {"version": 1}, limits) == "version is 2 and is never set to less"
    assert check_rising(agreed, {"version": 2}, limits) == ""


# --- a state machine's own limits ----------------------------------------------------------------


def test_a_state_machine_is_told_its_limits_before_anything_else() -> None:
    machine = Bounded()
    app = application(machine, most=2)
    assert machine.told == [{"most": 2, "depth": 5}]
    own = [Entry(0, n, 0, 0, b"c") for n in range(3)]
    assert [status for status, _ in execute(app, *own)] == [0, 0, ReplyStatus.FAILED]
    before = app.agreed
    execute(app, change(0, most=3), own[0])
    assert before.machine == {"most": 2, "depth": 5}
    assert machine.told[1:] == [{"most": 3, "depth": 5}]
    assert len(machine.applied) == 2
    execute(app, own[0])
    assert len(machine.applied) == 3
    image = b"".join(app.image())
    for restore in (Application.restore, Application.prove):
        late = Bounded()
        restore(application(late, most=99), image)
        assert late.told_at_restore == {"most": 3, "depth": 5}


def test_the_stores_limits_are_agreed() -> None:
    store = KVStore()
    app = application(store, max_value_bytes=4, max_key_bytes=8)

    def run(*operations: Any) -> list[Any]:
        ((status, payload),) = execute(app, Entry(0, 1, 0, 0, encode_operations(operations)))
        assert status == ReplyStatus.OK
        return decode_results(payload)

    assert run(Put(b"k", b"1234")) == [2]
    assert "longer than 4 bytes" in run(Append(b"k", b"5"))[0]["error"]
    assert "longer than 8 bytes" in run(Put(b"k" * 9, b""))[0]["error"]
    execute(app, change(0, max_value_bytes=5))
    assert run(Append(b"k", b"5")) == [5]
    execute(app, change(app.agreed.changed_at, max_value_bytes=2))
    assert "longer than 2 bytes" in run(Append(b"k", b""))[0]["error"]
    assert store.query(encode_operations([])) == encode_operations([])
    assert store._state.data[b"k"].value == b"12345"  # what is there stays


# --- by way of servers ---------------------------------------------------------------------------


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


def served(size: int = 3, **options: Any) -> Cluster:
    cluster = Cluster(size, machine=Bounded, options=options).start()
    cluster.lead(1)
    cluster.pass_time(0.1)
    return cluster


def ask(cluster: Cluster, server: int = 1, since: int = 0, **values: float) -> QueryReply | None:
    number = len(cluster.replies) + 1000
    cluster.request(server, ChangeSettings(number, since, values))
    cluster.stabilize()
    return next((a for a in cluster.answers() if a.id == number), None)


def test_a_change_by_way_of_the_leader() -> None:
    cluster = served()
    reply = ask(cluster, max_sessions=5, most=7)
    assert reply is not None and reply.status == ReplyStatus.OK
    told = decode_agreed(reply.payload, Bounded.limits)
    cluster.pass_time(0.1)
    for server in cluster.servers.values():
        assert server.application.agreed == told
        assert server.describe().agreed["max_sessions"] == 5
        assert server.describe().agreed["most"] == 7
        assert server.describe().agreed_from == told.changed_at + 1
    assert ask(cluster, server=2, max_sessions=6) is None  # it points to the leader


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_session": 5}, "there is no agreed setting 'max_session'; there are session_ttl"),
        ({"max_sessions": 4, "window": 5}, "window is each server's own and not agreed on: set"),
        ({"max_sessions": 0}, "max_sessions = 0: must be from 1 to 1000000"),
        ({"max_sessions": 1.5}, "max_sessions = 1.5: must be a whole number"),
        ({"max_sessions": True}, "max_sessions = True: must be a whole number"),
        ({"max_command_bytes": 17 << 20}, "must be from 2097152 to 16777216"),
        ({"digest_version": 99}, "digest_version = 99: must be from"),
        ({"session_ttl": float("nan")}, "session_ttl = nan: must be from"),
        ({"most": 101}, "most = 101: must be from 1 to 100"),
        ({"max_sessions": 4, "most": 101}, "most = 101"),
    ],
)
def test_what_is_refused_before_it_enters_the_log(values: dict[str, float], text: str) -> None:
    cluster = served()
    last = cluster.servers[1].log.last
    reply = ask(cluster, **values)  # type: ignore[arg-type] # (`id` is none of them)
    assert reply is not None and reply.status == ReplyStatus.INVALID
    assert text in reply.payload.decode()
    assert cluster.servers[1].log.last == last


def test_nothing_is_changed_before_all_voters_have_said_that_they_know_it() -> None:
    cluster = Cluster(5, machine=Bounded)
    cluster.start(1, 2, 3)
    cluster.lead(1)
    reply = ask(cluster, max_sessions=5)
    assert reply is not None and reply.status == ReplyStatus.INVALID
    assert b"servers 4 and 5 are not heard of since this leader started" in reply.payload
    asked = ask(cluster)
    assert asked is not None and asked.status == ReplyStatus.OK  # asking changes nothing
    cluster.start(4, 5)
    cluster.pass_time(0.2)
    reply = ask(cluster, max_sessions=5)
    assert reply is not None and reply.status == ReplyStatus.OK


def test_a_voter_of_an_older_release_keeps_a_change_out() -> None:
    cluster = served()
    ballot, limits = cluster.servers[1].promised, cluster.servers[2]._features.limits
    old = HeartbeatReply(ballot, 1, 0)  # as a release before sends it
    cluster.hand(1, 3, old)
    reply = ask(cluster, max_sessions=5)
    assert reply is not None and reply.status == ReplyStatus.INVALID
    assert b"server 3 is running a release that does not know this" in reply.payload
    cluster.hand(1, 3, HeartbeatReply(ballot, 1, 0, KNOWS, limits + 1))
    reply = ask(cluster, most=5)
    assert reply is not None and b"server 3 is running a state machine" in reply.payload
    reply = ask(cluster, max_sessions=5)
    assert reply is not None and reply.status == ReplyStatus.OK  # the machine has no part in it


def test_what_voters_know_is_remembered_from_pre_votes_too() -> None:
    cluster = Cluster(3, machine=Bounded).start()
    features = cluster.servers[1]._features
    assert "servers 2 and 3 are not heard" in features.obstacle(["most"])
    for server in (2, 3):
        reply = PreVoteReply(99, False, 0, 0, KNOWS, features.limits)
        cluster.hand(1, server, reply)
    assert features.obstacle(["most"]) == ""
    features.knows = KNOWS + 1
    assert "servers 2 and 3 are running a release" in features.obstacle(["max_sessions"])
    assert Features((), {}).obstacle(["most"]) == ""


def test_a_change_asked_for_again_at_the_next_leader_is_made_once() -> None:
    cluster = served()
    cluster.request(1, ChangeSettings(5, 0, {"max_sessions": 9}))
    cluster.stabilize()
    made = cluster.servers[1].application.agreed
    cluster.crash(1)
    cluster.pass_time(2.0)
    cluster.restart(1)
    cluster.pass_time(0.2)
    (leader,) = [s for s, server in cluster.servers.items() if server.role == "leader"]
    assert leader != 1
    cluster.request(leader, ChangeSettings(5, 0, {"max_sessions": 9}))
    cluster.stabilize()
    assert cluster.servers[leader].application.agreed == made
    assert [a.status for a in cluster.answers() if a.id == 5] == [ReplyStatus.OK] * 2


def test_who_contends_keeps_a_change_until_it_leads_again() -> None:
    cluster = Cluster(3, options={"policy": "immediate", "contend": True}).start()
    cluster.lead(1)
    cluster.pass_time(0.1)
    cluster.request(1, ChangeSettings(5, 0, {"max_sessions": 9}))
    server = cluster.servers[1]
    server.adopt(server.promised.next_for(2))
    held = [message for _, message in server._held.requests]
    assert held == [ChangeSettings(5, 0, {"max_sessions": 9})]


def test_settings_that_differ_from_what_is_agreed_are_a_warning(warnings: list[str]) -> None:
    cluster = served()
    ask(cluster, max_sessions=9)
    cluster.pass_time(1.5)  # so that a restart replays it by itself
    warnings.clear()
    restarted = cluster.restart(3, max_sessions=5, session_ttl=3600.0)
    cluster.pass_time(0.2)
    assert restarted.application.agreed.max_sessions == 9
    told = [line for line in warnings if "by agreement" in line]
    assert len(told) == 1
    assert "server 3: max_sessions is 9 by agreement and 5 here" in told[0]
    assert "session_ttl" not in told[0]
    assert "paxon settings set" in told[0]


def test_a_no_op_changes_nothing() -> None:
    app = application()
    before = app.agreed
    app.execute(1, NO_OP)
    assert app.agreed is before


def test_values_in_one_mapping() -> None:
    app = application(Bounded())
    found = agreed_values(app.agreed)
    assert set(found) == {*NAMES, "most", "depth"}
    assert found["most"] == 10


def test_to_ask_what_is_agreed_makes_no_difference_between_releases() -> None:
    """The answer names what the release that gives it knows."""

    class Before(Bounded):
        limits: ClassVar[Limits] = {"most": Bounded.limits["most"]}

    begun = encode_agreed(first_agreed({}, Before.limits))
    heads = []
    for machine in (Before(), Bounded()):
        app = Application(machine, decode_agreed(begun, machine.limits))
        execute(app, change(0))
        execute(app, change(0, most=4))
        heads.append(app.chain.head)
    assert heads[0] == heads[1]
    different = Application(Bounded(), decode_agreed(begun, Bounded.limits))
    execute(different, change(0))
    execute(different, change(0, most=5))
    assert different.chain.head != heads[0]


def test_an_older_release_takes_over_the_snapshot_of_a_newer_one() -> None:
    """What was never set to anything else does not occur in it."""

    class Before(Bounded):
        limits: ClassVar[Limits] = {"most": Bounded.limits["most"]}

    begun = encode_agreed(first_agreed({}, Before.limits))
    newer = Application(Bounded(), decode_agreed(begun, Bounded.limits))
    older = Application(Before(), decode_agreed(begun, Before.limits))
    for app in (newer, older):
        execute(app, change(0, max_sessions=7, most=4))
    assert newer.digest() == older.digest()
    image = b"".join(newer.image())
    assert image == b"".join(older.image())
    late = Application(Before(), first_agreed({}, Before.limits))
    late.restore(image)
    assert late.agreed == older.agreed
    again = Application(Bounded(), first_agreed({}, Bounded.limits))
    again.restore(image)
    assert again.agreed == newer.agreed
    execute(newer, change(newer.agreed.changed_at, depth=6))
    with pytest.raises(UnknownSetting, match="depth"):
        late.restore(b"".join(newer.image()))


def test_help_says_what_each_setting_is_for() -> None:
    """All of them, in the order of the fields: a name stands before a colon or a comma."""
    explained = re.findall(r"(?:- |, )(\w+)(?=[:,])", Settings.__doc__ or "")
    names = list(Settings.__struct_fields__)
    assert [name for name in explained if name in names] == names


def test_another_agreed_setting_is_known_by_another_number() -> None:
    """By it a leader knows that some server could not read a change; then it lets none in.

    If this fails, raise `KNOWS`, and write down both here.
    """
    own = ("session_ttl", "max_sessions", "max_command_bytes", "max_outstanding",
           "session_min_idle", "max_kept_each", "max_kept", "digest_version")  # fmt: skip
    assert own == NAMES and KNOWS == 1
