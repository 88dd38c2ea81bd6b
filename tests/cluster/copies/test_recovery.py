"""`paxon recover`: a cluster of one, of what one directory holds (docs/running/recovery.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from paxon.actors.ballot import Ballot
from paxon.actors.disk.sqlite_storage import SqliteStorage
from paxon.actors.execution.agreed import Limits, encode_agreed, first_agreed
from paxon.actors.execution.application import Application, encode_batch
from paxon.actors.messages import Batch, Entry, Made
from paxon.actors.records.configuration import Configuration, Member, encode_config
from paxon.kvstore.client.addresses import free_ports, hold_ports
from paxon.kvstore.cluster.cluster_file import STORE_MACHINE, ClusterDescription
from paxon.kvstore.cluster.node import start_server
from paxon.kvstore.cluster.recovery import REVISIONS_AHEAD, RecoveryError, recover
from paxon.kvstore.errors import Compacted, PaxonError, WrongCluster
from paxon.kvstore.recipes.clients import Client
from paxon.kvstore.store.operations import Operation, Put, encode_operations
from paxon.kvstore.store.store import KVStore
from tests.cluster.belonging.test_making import PATIENCE, THREE, Servers, made_of_three
from tests.cluster.copies.test_old_copies import contents
from tests.cluster.helpers import paxon_here
from tests.cluster.machines import Recursing
from tests.coordination.test_cut_clients import acquired
from tests.waiting import wait_until

SECOND = 1_000_000_000
BALLOT = Ballot(3, 2)


def batch(slot: int, *operations: Operation) -> bytes:
    entry = Entry(0, slot, 0, 0, encode_operations(operations or [Put(b"k%d" % slot, b"v")]))
    return encode_batch(Batch(slot * SECOND, [entry]))


class Left:
    """What is left of server 1 of three: a directory, and the file that describes the cluster."""

    def __init__(self, home: Path) -> None:
        ports = free_ports(6)
        self.held = hold_ports(ports)
        text = '[cluster]\nid = "orders"\n'
        for server in THREE:
            peer, client = ports[2 * server - 2 : 2 * server]
            text += f"[[server]]\nid = {server}\npeer_port = {peer}\nclient_port = {client}\n"
        self.file = home / "cluster.toml"
        self.file.write_text(text)
        self.described = ClusterDescription.read(self.file)
        self.plan = self.described.plan(1)
        self.directory = Path(self.plan.entry.directory)
        self.new = home / "new"

    def write(
        self,
        rows: dict[int, bytes],
        chosen_to: int,
        *,
        made: bool = True,
        configuration: Configuration | None = None,
        promised: Ballot = BALLOT,
        as_member: int = 1,
        limits: Limits = KVStore.limits,
    ) -> int:
        """Make the directory; returns its incarnation. It is made as server `as_member`'s of it."""
        with closing(SqliteStorage(self.directory, "orders", as_member, fork=False)) as storage:
            storage.load()
            if made:
                members = tuple((s, storage.incarnation if s == 1 else 50 + s) for s in THREE)
                agreed = encode_agreed(first_agreed({}, limits))
                storage.save_made(Made(77, "orders", members, agreed), in_force=True)
            if configuration is not None:
                storage.save_seal(configuration)
            storage.save_promise(promised)
            for slot, value in rows.items():
                storage.save_accepted(slot, promised, value)
            storage.save_chosen_to(chosen_to, lazily=False)
            storage.commit()
            return storage.incarnation

    def keys(self) -> list[str]:
        """Those in the new directory, which has to serve by itself."""
        with (
            start_server(
                self.plan.settings, KVStore(), peers=self.plan.peers,
                client_bind=self.plan.entry.client_bind, directory=self.new,
            ),
            Client(self.plan.entry.client, timeout=PATIENCE) as client,
        ):  # fmt: skip
            return [entry.key for entry in client.range(prefix="")]

    def refusal(self, **options: object) -> str:
        """Why it is not recovered; nothing was made."""
        with pytest.raises(PaxonError) as caught:
            recover(self.plan, self.new, **options)  # type: ignore[arg-type]
        assert not self.new.exists()
        return str(caught.value)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    made = Left(tmp_path)
    yield made
    for held in made.held:
        held.close()


def slots(*numbers: int) -> dict[int, bytes]:
    return {slot: batch(slot) for slot in numbers}


def test_all_that_was_accepted_counts_and_gaps_are_empty(left: Left) -> None:
    left.write(slots(1, 2, 3, 5), chosen_to=2)
    before = contents(left.directory)
    found = recover(left.plan, left.new)
    assert (found.chosen_to, found.taken_to, found.gaps, found.keys) == (2, 5, [4], 4)
    said = "\n".join(found.sentences())
    assert "what is above slot 2 was accepted here" in said and "empty: slot 4" in said
    assert "lost: what the others acknowledged after slot 2" in said
    assert contents(left.directory) == before
    assert left.keys() == ["k1", "k2", "k3", "k5"]


def test_a_slot_that_stops_servers_is_skipped_by_name(left: Left) -> None:
    left.write({**slots(1, 3), 2: b"\xff no batch"}, chosen_to=3)
    said = left.refusal()
    assert "--skip 2 takes that slot for empty" in said
    assert "there is no slot 9 to skip: the last one here is 3" in left.refusal(skip=[2, 9])
    assert "there is no slot 0 to skip" in left.refusal(skip=[0, 2])
    found = recover(left.plan, left.new, skip=[2])
    assert (found.skipped, found.gaps, found.keys) == ([2], [], 2)
    assert "empty: slot 2 (as told)" in found.sentences()[1]
    with pytest.raises(RecoveryError, match="slot 1 cannot be skipped: the snapshot at slot 1"):
        recover(left.plan.moved_to(left.new), left.new.with_name("newer"), skip=[1])


def members(*pairs: tuple[int, int]) -> tuple[Member, ...]:
    return tuple(Member(server, incarnation) for server, incarnation in pairs)


def test_a_directory_without_which_others_went_on_is_refused_unless_forced(left: Left) -> None:
    others = Configuration(1, 2, members((2, 52), (3, 53)))
    left.write(slots(1, 2), 2, configuration=others, promised=Ballot.first_of(1))
    assert "it is no member any more since slot 2" in left.refusal()
    assert recover(left.plan, left.new, force=True).keys == 2


def test_a_server_whose_epoch_was_sealed_and_not_opened_is_refused_unless_forced(
    left: Left,
) -> None:
    mine = left.write(slots(1, 2), 2)
    with closing(SqliteStorage(left.directory, "orders", 1, fork=False)) as storage:
        storage.load()
        storage.save_seal(Configuration(1, 2, members((1, mine), (4, 54))))
        storage.save_promise(Ballot.first_of(1))
        storage.commit()
    assert "nothing of the next one is here: its members (1, 4) may" in left.refusal()
    assert recover(left.plan, left.new, force=True).taken_to == 2
    shutil.rmtree(left.new)
    with closing(SqliteStorage(left.directory, "orders", 1, fork=False)) as storage:
        storage.load()  # with a slot of that epoch it is as good as any other
        storage.save_promise(Ballot.first_of(1).next_for(4))
        storage.save_accepted(3, Ballot.first_of(1).next_for(4), batch(3))
        storage.commit()
    assert recover(left.plan, left.new).taken_to == 3


def test_a_change_that_may_have_been_decided_is_refused_unless_forced(left: Left) -> None:
    change = encode_config(Configuration(1, 3, members((4, 54))))
    left.write({**slots(1, 2), 3: change}, chosen_to=2)
    assert "accepted a change of members in slot 3 and does not know" in left.refusal()
    assert recover(left.plan, left.new, force=True).taken_to == 3
    assert left.keys() == ["k1", "k2"]


def test_what_is_no_directory_of_this_server_is_refused(left: Left) -> None:
    assert "holds no paxon.db" in left.refusal()
    assert not left.directory.exists()
    left.write({}, 0, made=False)
    assert "is of no cluster that was ever in force" in left.refusal()
    shutil.rmtree(left.directory)
    left.write(slots(1), 1, as_member=2)
    assert "belongs to server 2, not to server 1" in left.refusal()
    assert recover(left.plan, left.new, force=True).server == 1
    assert left.keys() == ["k1"]  # by force it has become this server's
    with pytest.raises(RecoveryError, match="not empty"):
        recover(left.plan, left.file.parent, force=True)
    (loop := left.new.with_name("loop")).symlink_to(loop)
    with pytest.raises(RecoveryError, match="not empty"):
        recover(left.plan, loop, force=True)
    with pytest.raises(RecoveryError, match="is inside of the data directory"):
        recover(left.plan, left.directory / "new", force=True)


def test_a_directory_in_use_is_refused_even_by_force(left: Left) -> None:
    left.write(slots(1), 1)
    with closing(SqliteStorage(left.directory, "orders", 1, fork=False)):
        for force in (False, True):
            assert "is in use by a live process" in left.refusal(force=force)


def test_what_was_recovered_can_be_recovered_again(left: Left) -> None:
    left.write(slots(1, 2), 2)
    first = recover(left.plan, left.new)
    again = recover(left.plan.moved_to(left.new), left.new.with_name("again"))
    assert first.revision is not None and again.revision is not None
    assert again.revision >= first.revision + REVISIONS_AHEAD
    assert (again.keys, again.taken_to) == (2, 1)


def test_a_directory_that_was_given_up_is_refused_unless_forced(left: Left) -> None:
    left.write(slots(1), 1)
    with closing(SqliteStorage(left.directory, "orders", 1, fork=False)) as storage:
        storage.condemn("it was taken out of the cluster")  # as one that has diverged, too
    assert "it was taken out of the cluster" in left.refusal()
    assert recover(left.plan, left.new, force=True).keys == 1


def test_a_copy_is_taken_and_said_to_be_one(left: Left) -> None:
    left.write(slots(1), 1)
    left.directory.rename(left.directory.with_name("aside"))
    shutil.copytree(left.directory.with_name("aside"), left.directory)
    found = recover(left.plan, left.new)
    assert found.moved and any("may be an old copy" in line for line in found.sentences())


def test_a_state_machine_of_ones_own(left: Left) -> None:
    """Its state is taken as it is; the log's time goes on."""
    entries = [Entry(0, slot, 0, 0, command) for slot, command in ((1, b"2"), (2, b"3"))]
    left.write({e.seq: encode_batch(Batch(e.seq * SECOND, [e])) for e in entries}, 2, limits={})
    machine = "tests.cluster.machines:Recursing"
    plan = left.described.plan(1, machine=machine)
    found = recover(plan, left.new)
    assert (found.taken_to, found.keys, found.revision) == (2, None, None)
    with closing(SqliteStorage(left.new, "orders", 1, fork=False)) as storage:
        snapshot = storage.load().snapshot
        assert snapshot is not None
        image = storage.read_snapshot(snapshot.slot, 0, snapshot.size)
    restored = Application(Recursing(), first_agreed({}, {}))
    restored.restore(image)
    assert (restored.machine.snapshot(), restored.time) == (b"2 3", 2 * SECOND)
    # As the store, which it is not, it is refused.
    with pytest.raises(RecoveryError, match="the snapshot at slot 1 cannot be restored"):
        recover(left.plan.moved_to(left.new), left.new.with_name("again"))


def are_level(servers: Servers) -> bool:
    executed = [reply.executed for reply in servers.rows(*THREE).values()]  # type: ignore[attr-defined]
    return len(executed) == 3 and len(set(executed)) == 1


@pytest.mark.process
def test_two_of_three_disks_are_lost_and_clients_are_told(tmp_path: Path) -> None:
    servers = Servers(tmp_path, 3)
    try:
        _lose_two_and_recover(servers, tmp_path)
    finally:
        servers.end()


def _lose_two_and_recover(servers: Servers, home: Path) -> None:
    made_of_three(servers)
    with (
        Client(servers.address(*THREE), timeout=PATIENCE) as old,
        Client(servers.address(*THREE), timeout=PATIENCE) as watcher,
    ):
        for number in range(20):
            revision = old.put(f"k{number}", b"%d" % number)
        fence = acquired(old, "deploy", 2.0).fence
        assert watcher.get("k0") == b"0"  # from here on it belongs to this cluster
        events = iter(watcher.watch(prefix="k"))
        wait_until(lambda: are_level(servers))
        servers.stop(*THREE)
        shutil.rmtree(home / "server-2")
        (home / "server-3").rename(home / "old")
        new = str(home / "recovered")
        done = paxon_here(
            "recover", "-c", str(home / "cluster-1.toml"), "-i", "1", "--into", new
        )  # fmt: skip
        assert done.returncode == 0 and b"lost: what the others" in done.stdout, done
        servers.start(1, THREE, "--dir", new)
        wait_until(lambda: servers.leaders(1) == [1])
        with Client(servers.address(1), timeout=PATIENCE) as client:
            assert [client.get(f"k{number}") for number in (0, 19)] == [b"0", b"19"]
            # Who saw the old cluster is refused, or told what it cannot have any more.
            for ask in (lambda: old.put("k0", "again"), lambda: next(events)):
                with pytest.raises(WrongCluster):
                    ask()
            with pytest.raises(Compacted):
                next(iter(client.watch(prefix="k", after=revision)))
            assert client.put("k0", "first") > REVISIONS_AHEAD
            # The lease of who held the lock came along; nobody renews it, and so it runs out.
            with client.lock("deploy", ttl=60, timeout=PATIENCE) as mine:
                assert mine.fence > fence + REVISIONS_AHEAD // 2
    _start_an_old_one(servers, home)
    _join_it(servers)


def _start_an_old_one(servers: Servers, home: Path) -> None:
    """What was left of the old cluster, and should not start again, says so."""
    servers.start(3, THREE, "--dir", str(home / "old"))
    what = "recovered or restored without this directory, start this server on an empty one"
    wait_until(lambda: what in servers.said(3))
    told = paxon_here("status", "-c", servers.address(1, 3))
    assert b"are servers of several clusters" in told.stderr and b"with --join" in told.stderr
    servers.stop(3)


def _join_it(servers: Servers) -> None:
    """The others become members on empty directories; then the recovered one may go."""
    for server in (2, 3):
        servers.start(server, THREE, "--join", servers.address(1))
        add = ["member", "add", str(server), "-c", servers.address(1), "--timeout", "60"]
        wait_until(lambda add=add: paxon_here(*add).returncode == 0)  # type: ignore[misc]
    servers.stop(1)
    with Client(servers.address(2, 3), timeout=PATIENCE) as client:
        assert client.get("k19") == b"19"
        client.put("k19", "by the others")


def test_the_command_answers_in_json(left: Left) -> None:
    left.write(slots(1, 2), 2)
    command = ["recover", "-c", str(left.file), "-i", "1", "--into", str(left.new)]
    done = paxon_here(*command, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["taken_to"] == 2
    again = paxon_here(*command)
    assert again.returncode == 1 and b"not empty" in again.stderr
    command[-1:] = [str(left.new.with_name("a new one")), "--machine", STORE_MACHINE]
    assert f"a new one' --machine {STORE_MACHINE};" in paxon_here(*command).stdout.decode()
