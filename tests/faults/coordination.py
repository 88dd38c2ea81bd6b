"""Recipes under load while the leader is killed every second (docs/checks/faults.md).

Each recipe has workers, threads with a client of their own, which write down what they were told.
What has to be true of it is said in `holdings`, without I/O.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

from paxon import (
    Client,
    ClientClosed,
    Contender,
    Entry,
    Event,
    Held,
    LeaseExpired,
    LockLost,
    NotAcquired,
    OutcomeUnknown,
    PaxonError,
    Put,
    RequestTimeout,
    Transaction,
    Watch,
)
from paxon.kvstore.client.leases.clock import boot_seconds
from paxon.kvstore.client.leases.requests import Grant, new_id
from tests.cluster.helpers import wait_until
from tests.faults.holdings import Holding, Holdings, LeaseBook, Told, once_and_in_order
from tests.faults.pauses import PlainCluster
from tests.faults.trial import Outcome, Trial

__all__ = ["claims", "coordination"]

SOON = 60.0
SERVERS = 5
"""So there is a majority while two come back."""
CONSUMERS = 2
"""Of the queue, in processes of their own."""
TTL = 3.0
"""Of what is held: long enough to be renewed through an election, short enough to end often."""
USED = ("increments", "moved", "leases", "done", "joined", "met", "done by processes")
"""What is counted, and has to have been done at all."""
GUARDED, LEASED, LOAD, DONE = "guarded/", "leased/", "load/", "done/"
Work = Callable[[Client, random.Random], None]


class Recipes:
    """The workers, their books, and who watches."""

    def __init__(self, cluster: PlainCluster) -> None:
        self._cluster = cluster
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._watchers = contextlib.ExitStack()
        self._followed: list[Watch] = []
        self.errors: list[BaseException] = []
        self.wrong: list[str] = []
        """What a worker itself saw that may not be."""
        self.counts: Counter[str] = Counter()
        self.books: dict[str, Holdings] = {}
        self.leases = LeaseBook()
        self.leaders: list[Contender | None] = []
        """What an observer of the election was told."""
        self.written: list[tuple[int, str]] = []
        self.items: list[str] = []
        """What the queue was given."""
        self.told = [Told(), Told()]
        self.meetings: list[tuple[float, float, bool]] = []
        """Of each that came to the barrier: when, until when it was there, and if it went on."""
        self.members: list[list[Contender]] = []
        """What an observer of the members was told."""
        self._processes: list[subprocess.Popen[bytes]] = []

    # --- the frame -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._watch(GUARDED, self._guarded)
        self._watch(LEASED, self._leased)
        for told in self.told:
            self._watch(LOAD, lambda e, t=told: t.events.append((e.revision, e.key)), told)  # type: ignore[misc]
        works: list[tuple[int, Work]] = [
            (3, self.lock("lock/a")), (2, self.lock("lock/b")), (3, self.election("election")),
            (3, self.semaphore("semaphore")), (4, self.rwlock("rwlock")),
            (1, self.produce), (3, self.consume), (2, self.lease), (2, self.count),
            (2, self.move), (1, self.write), (2, self.barrier), (2, self.member),
        ]  # fmt: skip
        seed = 0
        for workers, work in works:
            for _ in range(workers):
                seed += 1
                self._start(self._work, work, seed)
        for observe in (self._observe, self._observe_members):
            observer = self._watchers.enter_context(self._cluster.client(timeout=SOON))
            threading.Thread(target=observe, args=(observer,), daemon=True).start()
        for _ in range(CONSUMERS):
            self._processes.append(consumer(self._cluster))
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._watchers.close()

    def stop(self) -> None:
        """Let each worker finish what it is at."""
        self._ending.set()
        end(self._processes)
        for thread in self._threads:
            thread.join(2 * SOON)
            assert not thread.is_alive(), f"{thread.name} does not end"
        self._threads.clear()

    def go_on_until_all_was_done(self) -> None:
        """On a busy machine there may have been too little time for something."""

        def done() -> bool:
            assert not self.errors, self.errors
            if not all(book.found and book.written for book in self.books.values()):
                return False
            self._count_processes(kv)
            return all(self.counts[what] for what in USED)

        with self._cluster.client(timeout=SOON) as kv:
            wait_until(done, "all recipes have been of use", 2 * SOON)

    def _count_processes(self, kv: Client) -> list[Entry]:
        found = kv.range(prefix=DONE).entries
        self.counts["done by processes"] = sum(e.value == b"by a process" for e in found)
        return found

    def check(self) -> str:
        """All is healed, and all watchers are told; says what was done. Raises `AssertionError`."""
        assert not self.errors, self.errors
        with self._cluster.client(timeout=SOON) as kv:
            last = kv.put("last", "")
            wait_until(lambda: all(w.revision >= last for w in self._followed), "all is told", SOON)
            leases = self.leases
            wait_until(
                lambda: not set(leases.ends) - set(leases.ended), "all leases have ended", SOON
            )
            queued = self._check_queue(kv)
            counted = int(kv.get("count") or 0)
            wait_until(lambda: not kv.members("members").list(), "all members are gone", SOON)
            left, right = int(kv.get("move/a") or 0), int(kv.get("move/b") or 0)
        wrong = [*self.wrong, *queued, *leases.complaints()]
        for book in self.books.values():
            wrong += book.complaints()
        wrong += once_and_in_order(self.told, self.written, 2 * self.counts["writes unknown"])
        wrong += observed(self.leaders) + membership(self.members) + alone(self.meetings)
        if counted != self.counts["increments"]:
            wrong.append(f"{self.counts['increments']} increments made {counted}")
        if left + right != 0:
            wrong.append(f"what was moved has become {left + right}")
        assert not wrong, wrong
        return self._summary()

    def _summary(self) -> str:
        held = sum(len(book.found) for book in self.books.values())
        written = sum(len(book.written) for book in self.books.values())
        done = {
            "holders": held,
            "of them died": self.counts["died"],
            "woke up late": self.counts["late"],
            "guarded writes": written,
            "leaders observed": sum(each is not None for each in self.leaders),
            "items done": self.counts["done"] + self.counts["done by processes"],
            "of them by processes": self.counts["done by processes"],
            "of which were killed": self.counts["consumers killed"],
            "meetings": self.counts["met"],
            "members": self.counts["joined"],
            "leases ended": len(self.leases.ended),
            "revisions watched": len(self.told[0].events) // 2,
            "increments": self.counts["increments"],
            "asked for again": self.counts["again"],
            "transactions": self.counts["moved"],
        }
        return ", ".join(f"{number:,} {what}" for what, number in done.items())

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, work: Work, seed: int) -> None:
        draw = random.Random(seed)
        try:
            with self._cluster.client(timeout=20.0) as client:
                while not self._ending.is_set():
                    with contextlib.suppress(NotAcquired, LockLost, LeaseExpired, RequestTimeout):
                        work(client, draw)
                    self._ending.wait(draw.uniform(0.0, 0.02))
        except BaseException as error:
            self.errors.append(error)

    # --- who watches -----------------------------------------------------------------------------

    def _watch(
        self, prefix: str, take: Callable[[Event], object], told: Told | None = None
    ) -> None:
        client = self._watchers.enter_context(self._cluster.client(timeout=SOON))
        watch = client.watch(prefix=prefix, after=client.range(prefix=prefix).revision)

        def ended(error: PaxonError | None) -> None:
            if error is not None:
                (told or Told()).ended = str(error)
                self.errors.append(error)

        watch.call(take, ended)
        self._followed.append(watch)

    def _guarded(self, event: Event) -> None:
        self.books[event.key.removeprefix(GUARDED)].written.append(int(event.value))

    def _leased(self, event: Event) -> None:
        if event.kind == "delete":
            self.leases.ended[event.key] = boot_seconds()

    def _observe(self, observer: Client) -> None:
        with contextlib.suppress(ClientClosed):
            self.leaders.extend(observer.election("election").observe())

    def _observe_members(self, observer: Client) -> None:
        with contextlib.suppress(ClientClosed):
            self.members.extend(observer.members("members", ttl=TTL).watch())

    # --- consumers that are processes ------------------------------------------------------------

    def kill_a_consumer(self) -> None:
        """The one that has lived longest; another takes its place."""
        process = self._processes.pop(0)
        process.kill()
        process.wait()
        self.counts["consumers killed"] += 1
        self._processes.append(consumer(self._cluster))

    # --- what is held ----------------------------------------------------------------------------

    def lock(self, name: str) -> Work:
        """Hold a lock, write under it, let go or die."""
        book = self.books[name] = Holdings(name)

        def work(kv: Client, draw: random.Random) -> None:
            with self._holding(book, kv.lock(name, ttl=TTL).acquire(timeout=5.0), draw) as held:
                self._write_guarded(kv, held, book, draw)

        return work

    def election(self, name: str) -> Work:
        """Lead, say other things, resign or die."""
        book = self.books[name] = Holdings(name)

        def work(kv: Client, draw: random.Random) -> None:
            leading = kv.election(name, ttl=TTL).campaign(f"{draw.random()}", timeout=5.0)
            with self._holding(book, leading, draw):
                self._write_guarded(kv, leading, book, draw)
                leading.proclaim(f"{draw.random()}")

        return work

    def semaphore(self, name: str) -> Work:
        """Be one of two."""
        book = self.books[name] = Holdings(name)

        def work(kv: Client, draw: random.Random) -> None:
            held = kv.semaphore(name, 2, ttl=TTL).acquire(timeout=5.0)
            with self._holding(book, held, draw, places=2):
                self._write_guarded(kv, held, book, draw)

        return work

    def rwlock(self, name: str) -> Work:
        """Read with others, or write alone."""
        book = self.books[name] = Holdings(name)

        def work(kv: Client, draw: random.Random) -> None:
            lock = kv.rwlock(name, ttl=TTL)
            reads = draw.random() < 0.6
            held = (lock.read if reads else lock.write).acquire(timeout=5.0)
            with self._holding(book, held, draw, shares=reads):
                if reads:
                    held.check()
                else:
                    self._write_guarded(kv, held, book, draw)

        return work

    @contextlib.contextmanager
    def _holding(
        self,
        book: Holdings,
        held: Held,
        draw: random.Random,
        *,
        places: int = 1,
        shares: bool = False,
    ) -> Iterator[Held]:
        holding = Holding(held.fence, boot_seconds(), places=places, shares=shares)
        book.found.append(holding)
        try:
            yield held
        except LockLost:
            if not held.lost.is_set():
                self.wrong.append(f"{book.name}: {held} was lost, and its holder was not told")
            raise
        finally:
            if draw.random() < 0.1:  # as if its process died: nobody renews it, nobody revokes it
                self.counts["died"] += 1
                held.lease.ends_with_client = False
                held.lease.lose("its holder died")
                holding.ended = held.lease.deadline
                self._wake_up_late(held, draw)
            else:
                holding.ended = min(boot_seconds(), held.lease.deadline)
                held.release()

    def _wake_up_late(self, held: Held, draw: random.Random) -> bool:
        """It only stood still, and goes on when its lease is gone: what it writes is refused."""
        kv = held._kv
        if draw.random() < 0.5:
            return False
        while kv.lease_info(held.lease.id) is not None:
            if self._ending.wait(0.1):
                return False
        self.counts["late"] += 1
        if kv.txn(if_=[held], then=[Put("late", held.key)]).succeeded:
            self.wrong.append(f"{held} wrote after its loss")
        return True

    def _write_guarded(self, kv: Client, held: Held, book: Holdings, draw: random.Random) -> None:
        for _ in range(draw.randrange(1, 4)):
            done = kv.txn(if_=[held], then=[Put(f"{GUARDED}{book.name}", str(held.fence))])
            if not done.succeeded:
                raise LockLost(f"{book.name} is lost")

    # --- the others ------------------------------------------------------------------------------

    def lease(self, kv: Client, draw: random.Random) -> None:
        """Renew a lease for a while, and have a watcher see when it ends."""
        number, ttl = new_id(), draw.uniform(2.0, 4.0)
        key = f"{LEASED}{number:x}"
        sent = boot_seconds()
        ttl = kv._do(Grant(number, ttl), None)
        kv.put(key, "", lease=number)
        self.leases.alive_until(key, sent + ttl)
        self.counts["leases"] += 1
        for _ in range(draw.randrange(3)):
            if self._ending.wait(draw.uniform(0.0, ttl)):
                return
            sent = boot_seconds()
            try:
                kv.renew(number)
            except LeaseExpired:
                if boot_seconds() < self.leases.ends[key]:
                    self.wrong.append(f"{key} ended early, as its renewal was told")
                raise
            self.leases.alive_until(key, sent + ttl)

    def produce(self, kv: Client, draw: random.Random) -> None:
        """Put an item; one whose outcome is unknown is asked for again, not put again."""
        value = f"{draw.getrandbits(48):x}"
        try:
            kv.queue("queue", ttl=TTL).put(value, timeout=0.5)
        except RequestTimeout as error:
            if not error.unknown:
                return
            self._ask_again(error)
        self.items.append(value)

    def consume(self, kv: Client, draw: random.Random) -> None:
        """Do an item, give it back, or die of it."""
        item = kv.queue("queue", ttl=TTL).get(timeout=1.0)
        value = item.value.decode()
        chance = draw.random()
        if chance < 0.03:
            self.counts["died"] += 1
            item.lease.lose("its consumer died")
            if self._wake_up_late(item, draw):
                with contextlib.suppress(LockLost):
                    item.done(then=[Put(f"{DONE}{value}.late", "")])
                    self.wrong.append(f"{value} was done by a consumer that had lost it")
        elif chance < 0.1:
            item.release()
        else:
            try:
                item.done(then=[Put(f"{DONE}{value}", "")], timeout=1.0)
            except RequestTimeout as error:
                if not error.unknown:
                    raise
                self._ask_again(error)
            self.counts["done"] += 1

    def _check_queue(self, kv: Client) -> list[str]:
        """All that was put is done once, and nothing is left of it."""
        queue, draw = kv.queue("queue", ttl=TTL), random.Random(0)
        end = time.monotonic() + SOON
        while queue.size():
            assert time.monotonic() < end, "items are left, and nobody gets them"
            with contextlib.suppress(NotAcquired, LockLost):
                self.consume(kv, draw)
        found = self._count_processes(kv)
        wrong = [
            f"{entry.key} was done {entry.version} times" for entry in found if entry.version > 1
        ]
        lost = set(self.items) - {entry.key.removeprefix(DONE) for entry in found}
        if lost:
            wrong.append(f"{len(lost)} items are lost, such as {min(lost)}")
        claims = kv.range(prefix="queue/.queue/claims/").entries
        if claims:
            wrong.append(f"{len(claims)} claims are left of what is done")
        return wrong

    def count(self, kv: Client, _draw: random.Random) -> None:
        """Add one, and ask again for what timed out: each counts once."""
        try:
            kv.counter("count").add(timeout=0.2)
        except RequestTimeout as error:
            if not error.unknown:
                return
            self._ask_again(error)
        self.counts["increments"] += 1

    def barrier(self, kv: Client, _draw: random.Random) -> None:
        """Go on together with another."""
        came = boot_seconds()
        met = False
        try:
            kv.barrier("barrier", 2, ttl=TTL).wait(timeout=2.0)
            met = True
            self.counts["met"] += 1
        finally:
            self.meetings.append((came, boot_seconds(), met))

    def member(self, kv: Client, draw: random.Random) -> None:
        """Be there for a while, say something else of oneself, leave or die."""
        members = kv.members("members", ttl=TTL)
        me = members.join(f"{draw.random()}")
        self.counts["joined"] += 1
        try:
            if me.key not in [each.key for each in members.list()]:
                me.check()  # raises, if it is lost
            me.update(f"{draw.random()}")
        finally:
            if draw.random() < 0.1:
                self.counts["died"] += 1
                me.lease.lose("it died")
            else:
                me.leave()

    def _ask_again(self, error: RequestTimeout) -> None:
        self.counts["again"] += 1
        while True:
            try:
                error.retry(timeout=0.5)
            except OutcomeUnknown:
                raise AssertionError("its session lives, and yet its outcome is lost") from error
            except RequestTimeout as another:
                error = another
            else:
                return

    def move(self, kv: Client, draw: random.Random) -> None:
        """From one number to another: their sum stays."""
        amount = draw.randrange(1, 10)

        def change(transaction: Transaction) -> None:
            for key, by in (("move/a", -amount), ("move/b", amount)):
                transaction.put(key, str(int(transaction.get(key) or 0) + by))

        kv.transact(change)
        self.counts["moved"] += 1

    def write(self, kv: Client, draw: random.Random) -> None:
        """Two keys in a revision, for the watchers."""
        keys = f"{LOAD}a{draw.randrange(7)}", f"{LOAD}b{draw.randrange(3)}"
        try:
            revision = kv.put_many(dict.fromkeys(keys, b""))
        except RequestTimeout:
            self.counts["writes unknown"] += 1
            raise
        self.written.extend((revision, key) for key in keys)


def observed(leaders: list[Contender | None]) -> list[str]:
    """Whether an observer of an election was told each change once, in order."""
    wrong = []
    fences = [each.fence for each in leaders if each is not None]
    if fences != sorted(fences):
        wrong.append("an observer was told of leaders out of order")
    if any(one == other for one, other in pairwise(leaders)):
        wrong.append("an observer was told one thing twice")
    return wrong


def membership(told: list[list[Contender]]) -> list[str]:
    """Whether an observer of members was told each change once, and all in their order."""
    wrong = []
    for members in told:
        fences = [each.fence for each in members]
        if fences != sorted(set(fences)):
            wrong.append(f"members are told of out of order: {fences}")
    if any(one == other for one, other in pairwise(told)):
        wrong.append("an observer of members was told one thing twice")
    return wrong


def alone(meetings: list[tuple[float, float, bool]]) -> list[str]:
    """Whether anybody went on from a barrier though no other was there."""
    return [
        f"one went on alone, that was there from {came:.3f} to {left:.3f}"
        for n, (came, left, met) in enumerate(meetings)
        if met
        and not any(
            other_came <= left and came <= other_left
            for m, (other_came, other_left, _) in enumerate(meetings)
            if m != n
        )
    ]


def kill_leaders(
    cluster: PlainCluster, trial: Trial[PlainCluster], recipes: Recipes, seconds: float
) -> list[threading.Thread]:
    """kill -9 of the leader every second, and of a consumer; nobody waits for their coming back."""
    comebacks: list[threading.Thread] = []
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        trial.load.run_for(1.0 - passed % 1.0)
        victim = cluster.leader(timeout=SOON)
        cluster.kill(victim)
        trial.fault()
        comebacks.append(threading.Thread(target=cluster.restart, args=(victim,)))
        comebacks[-1].start()
        recipes.kill_a_consumer()
        assert not recipes.errors, recipes.errors
    return comebacks


def coordination(directory: Path, seconds: float) -> Outcome:
    """Leaders and consumers die every second, with recipes and the usual load."""
    with (
        PlainCluster(SERVERS, directory / "coordination") as cluster,
        Trial("coordination", cluster, directory, clients=2, pause=0.01) as trial,
    ):
        with Recipes(cluster) as recipes:
            for comeback in kill_leaders(cluster, trial, recipes, seconds):
                comeback.join(SOON)
            cluster.leader(timeout=SOON)
            recipes.go_on_until_all_was_done()
            recipes.stop()
            note = recipes.check()
        outcome = trial.verify()
    return dataclasses.replace(outcome, note=note)


def consumer(cluster: PlainCluster) -> subprocess.Popen[bytes]:
    """A process that works on the queue."""
    given = [",".join(cluster.addresses), "queue", DONE, str(TTL)]
    command = [sys.executable, "-m", "tests.faults.consumer", *given]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill all of them."""
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()


def claims(directory: Path, items: int, consumers: int) -> Outcome:
    """Consumers, each a process, are killed at random until all items are done (kazoo #366)."""
    with (
        PlainCluster(3, directory / "claims") as cluster,
        Trial("claims", cluster, directory, clients=1, pause=0.05) as trial,
        contextlib.ExitStack() as stack,
        cluster.client(timeout=SOON) as kv,
    ):
        kv.queue("queue", ttl=TTL).put_many(str(n) for n in range(items))
        processes = [consumer(cluster) for _ in range(consumers)]
        stack.callback(lambda: end(processes))
        done, moved, longest = 0, time.monotonic(), 0.0
        while done < items:
            trial.load.run_for(trial.draw.uniform(0.1, 0.4))
            at = trial.draw.randrange(consumers)
            processes[at].kill()
            processes[at].wait()
            processes[at] = consumer(cluster)
            trial.fault()
            now = kv.range(prefix=DONE, count_only=True).count
            free = items - now > kv.range(prefix="queue/.queue/claims/", count_only=True).count
            if now > done or not free:
                done, moved = now, time.monotonic()
            longest = max(longest, time.monotonic() - moved)
            assert longest < SOON, "there are items that nobody has, and nobody takes one"
        found = kv.range(prefix=DONE).entries
        twice = [entry.key for entry in found if entry.version > 1]
        assert len(found) == items and not twice, f"done twice: {twice}"
        assert not kv.range(prefix="queue/.queue/claims/").entries, "claims are left"
        outcome = trial.verify()
    note = f"{items:,} items done once each by {consumers} processes, {longest:.1f} s without one"
    return dataclasses.replace(outcome, note=note)
