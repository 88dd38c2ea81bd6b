"""Recipes under load while the leader is killed every second (docs/faults.md).

Each recipe has workers, threads with a client of their own, which write down what they were told.
What has to be true of it is said in `holdings`, without I/O.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
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

__all__ = ["coordination"]

SOON = 60.0
TTL = 3.0
"""Of what is held: long enough to be renewed through an election, short enough to end often."""
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

    # --- the frame -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._watch(GUARDED, self._guarded)
        self._watch(LEASED, self._leased)
        for told in self.told:
            self._watch(LOAD, lambda e, t=told: t.events.append((e.revision, e.key)), told)  # type: ignore[misc]
        works: list[tuple[int, Work]] = [
            (3, self.lock("lock/a")), (2, self.lock("lock/b")), (3, self.election("election")),
            (3, self.semaphore("semaphore")), (4, self.rwlock("rwlock")),
            (1, self.produce), (4, self.consume), (2, self.lease), (2, self.count),
            (2, self.move), (1, self.write),
        ]  # fmt: skip
        seed = 0
        for workers, work in works:
            for _ in range(workers):
                seed += 1
                self._start(self._work, work, seed)
        self._observer = self._watchers.enter_context(self._cluster.client(timeout=SOON))
        threading.Thread(target=self._observe, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._watchers.close()

    def stop(self) -> None:
        """Let each worker finish what it is at."""
        self._ending.set()
        for thread in self._threads:
            thread.join(2 * SOON)
            assert not thread.is_alive(), f"{thread.name} does not end"
        self._threads.clear()

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
            left, right = int(kv.get("move/a") or 0), int(kv.get("move/b") or 0)
        wrong = [*self.wrong, *queued, *leases.complaints()]
        for book in self.books.values():
            wrong += book.complaints()
            assert book.found and book.written, f"{book.name} was never held"
        wrong += once_and_in_order(self.told, self.written, 2 * self.counts["writes unknown"])
        wrong += observed(self.leaders)
        if counted != self.counts["increments"]:
            wrong.append(f"{self.counts['increments']} increments made {counted}")
        if left + right != 0:
            wrong.append(f"what was moved has become {left + right}")
        assert not wrong, wrong
        for what in ("increments", "moved", "leases", "done"):
            assert self.counts[what], f"no {what} at all"
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
            "items done": self.counts["done"],
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

    def _observe(self) -> None:
        with contextlib.suppress(ClientClosed):
            self.leaders.extend(self._observer.election("election").observe())

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
        found = kv.range(prefix=DONE).entries
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
            kv.increment("count", timeout=0.2)
        except RequestTimeout as error:
            if not error.unknown:
                return
            self._ask_again(error)
        self.counts["increments"] += 1

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


def coordination(directory: Path, seconds: float) -> Outcome:
    """kill -9 of the leader every second, with recipes and the usual load."""
    with (
        PlainCluster(3, directory / "coordination") as cluster,
        Trial("coordination", cluster, directory, clients=2, pause=0.01) as trial,
    ):
        with Recipes(cluster) as recipes:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                trial.load.run_for(1.0 - passed % 1.0)
                victim = cluster.leader(timeout=SOON)
                cluster.kill(victim)
                trial.fault()
                cluster.restart(victim)
                assert not recipes.errors, recipes.errors
            cluster.leader(timeout=SOON)
            recipes.stop()
            note = recipes.check()
        outcome = trial.verify()
    return dataclasses.replace(outcome, note=note)
