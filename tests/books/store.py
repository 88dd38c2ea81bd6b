"""Books over what the log has made of the store: leases, locks, watches and transactions.

The log is read along as servers execute it for the first time, and a plain model of the store is
told the same (tests/kvstore/store/model.py). So what a command comes to, what a client reads and
what a watcher is told can be compared with what they ought to be, whatever all servers agree on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

import msgspec

from paxon.actors import NO_BALLOT, Ballot
from paxon.actors.execution.application import Executed, decode_batch
from paxon.actors.messages import NO_OP, RENEWAL, ReplyStatus
from paxon.actors.records.configuration import is_config
from paxon.kvstore.store import history
from paxon.kvstore.store.items import Item
from paxon.kvstore.store.operations import (
    Events,
    Operation,
    Put,
    Range,
    Result,
    Txn,
    decode_operations,
    decode_results,
    encode_operations,
    is_refusal,
)
from paxon.kvstore.store.state import State
from tests.kvstore.store.model import Entry, Model
from tests.predicates import InvariantBroken, require

__all__ = ["GUARDED", "PERMITS", "Owner", "StoreBooks", "plain"]

GUARDED = b"~guarded/"
"""What is written under a lock: the rest of the key is the lock's name."""
PERMITS = 2
"""Of semaphores."""
_SEGMENTS = {"~lock": "/", "~sem0": "/.sem/", "~rw0": "/.rw/"}
"""Below which the contenders for a name stand, by how it begins."""
_ITEMS, _CLAIMS = b"~queue/.queue/items/", b"~queue/.queue/claims/"
_MS = 1_000_000


class Owner(Protocol):
    """Somebody who believes to have a lease."""

    def believes(self) -> bool:
        """Whether it does at this moment."""


def plain(result: Any) -> Any:
    """A result as it looks once it has crossed the wire; of a refusal, its kind alone."""
    return _kinds(decode_results(encode_operations([result]))[0])


def _kinds(result: Any) -> Any:
    if type(result) is dict:
        return {"kind": result.get("kind", "")}
    return [_kinds(part) for part in result] if type(result) is list else result


class _LogModel(Model):
    """The model, which tells of each lease that ends."""

    on_end: Callable[[int], None] = staticmethod(lambda lease: None)

    def end(self, lease: int) -> None:
        super().end(lease)
        self.on_end(lease)


class StoreBooks:
    """What the store ought to be after each slot, and what clients were told of it."""

    def __init__(
        self, now: Callable[[], float], fastest: float, *, in_time: bool, least_ttl: int = 2000
    ) -> None:
        """Books of an empty store.

        Args:
            now: the time of day, seconds.
            fastest: how many seconds the fastest clock may count in one.
            in_time: whether clocks keep to what owners count on (`keeping.CLOCK_DRIFT`).
            least_ttl: what the store grants at least, milliseconds.
        """
        self.start_anew = partial(
            StoreBooks.__init__, self, now, fastest, in_time=in_time, least_ttl=least_ttl
        )
        """Forget it all: the cluster is no more."""
        self._now = now
        self._fastest = fastest
        self._in_time = in_time
        self.model = _LogModel(least_ttl=least_ttl)
        self.model.on_end = self._lease_ended
        self.slot = 0
        self.told = 1
        """The highest revision that any client was told of."""
        self._made_at: dict[int, int] = {1: 0}
        """Per revision the log's time of the slot that made it."""
        self._proposed: dict[tuple[int, bytes], float] = {}
        """When each value was proposed for a slot first, seconds."""
        self.broken: InvariantBroken | None = None
        """What was found where raising it would have been in vain."""
        self._ahead = float("inf")
        """By how much the log's time was ahead of a fastest clock, at the least of all slots."""
        self._reign = NO_BALLOT
        """Of the last batch."""
        self._chosen_in = NO_BALLOT
        """The highest ballot in which anything was chosen."""
        self._events = 0
        self._events_to: dict[int, int] = {1: 0}
        """Events up to each revision."""
        self._answers: dict[bytes, list[tuple[int, Result]]] = defaultdict(list)
        """Per operation that was carried out the slots, and what it came to."""
        self.owners: dict[int, Owner] = {}
        """Of leases, by id: those who believe to have one."""
        self.granted: set[int] = set()
        self.ended: set[int] = set()
        self._waking = False
        self._fences: set[tuple[str, int]] = set()
        self._finished: set[bytes] = set()
        self._highest: dict[bytes, int] = {}
        """Of each guarded key the highest fence under which it was written."""
        self.counts: dict[str, int] = defaultdict(int)
        """What was met, for tests that ask whether anything was."""

    # --- the log -----------------------------------------------------------------------------

    def on_execute(
        self, slot: int, value: bytes, results: Sequence[Executed], applied: Sequence[bytes]
    ) -> None:
        """A server has executed a slot; `applied` are the commands that its store carried out."""
        if self.broken is not None:
            raise self.broken
        if slot <= self.slot:
            return  # (that all come to the same is another predicate)
        require(slot == self.slot + 1, "in order", "slot %d is executed after %d", slot, self.slot)
        self.slot = slot
        if value == NO_OP or is_config(value):
            return
        batch = decode_batch(value)
        require(
            batch.reign >= self._reign, "log time",
            "slot %d is of reign %s, after one of %s", slot, batch.reign, self._reign,
        )  # fmt: skip
        self._reign = batch.reign
        self._advance(slot, batch.time)
        self._pace(slot, value)
        position, woken = 0, False
        for entry, reply in results:
            if not woken and (entry.session or entry.acked != RENEWAL):
                self._wake()
                woken = True
            if position < len(applied) and entry.command is applied[position]:
                position += 1
                self._carry_out(slot, entry.command, reply)
        if not woken:
            self._wake()

    def on_chosen(self, ballot: Ballot) -> None:
        """A slot is chosen in a ballot."""
        self._chosen_in = max(self._chosen_in, ballot)

    def on_proposed(self, slot: int, ballot: Ballot, value: bytes) -> None:
        """A leader proposes a value: its own, if no leader of a lower ballot has done so.

        Who leads in the highest ballot has executed all that is chosen before it stamps anything.
        (What others propose may be chosen late, and be of an older time than what is executed.)
        """
        if value == NO_OP or is_config(value) or (slot, value) in self._proposed:
            return
        self._proposed[slot, value] = self._now()
        time = decode_batch(value).time
        require(
            ballot < self._chosen_in or time >= self.model.now, "log time",
            "slot %d is stamped %.3f s after one of %.3f s", slot, time / 1e9, self.model.now / 1e9,
        )  # fmt: skip

    def _advance(self, slot: int, time: int) -> None:
        require(
            time <= (self._now() * self._fastest + 0.001) * 1e9, "log time",
            "slot %d is of %.3f s, and only %.3f s have passed", slot, time / 1e9, self._now(),
        )  # fmt: skip
        self.model.now = max(self.model.now, time)

    def _pace(self, slot: int, value: bytes) -> None:
        """From one slot to a later one no more time passes than from when the first was stamped.

        Else what it has granted would end too soon for an owner who counts from when it asked.
        """
        time, now = self.model.now / 1e9, self._now()
        require(
            time - self._fastest * now <= self._ahead + 0.002, "log time",
            "slot %d leaps by %.3f s", slot, time - self._fastest * now - self._ahead,
        )  # fmt: skip
        stamped = self._proposed.get((slot, value), now)
        self._ahead = min(self._ahead, time - self._fastest * stamped)

    def _wake(self) -> None:
        before = self.model.revision
        self._waking = True
        self.model.wake()
        self._waking = False
        self._note_revisions(before)

    def _carry_out(self, slot: int, command: bytes, reply: Any) -> None:
        if reply.status != ReplyStatus.OK:
            return
        operations = [_as_sent(operation) for operation in decode_operations(command)]
        for operation, result in zip(operations, decode_results(reply.payload), strict=True):
            before = self.model.revision
            state = self.model.state
            expected = plain(self.model.run(operation))
            self._note_revisions(before)
            found = _kinds(result)
            if found != expected:
                require(
                    found == {"kind": "compacted"} and self._may_be_gone(operation), "as the model",
                    "slot %d: %r came to %r, and not to %r", slot, operation, result, expected,
                )  # fmt: skip
            self._answers[encode_operations([operation])].append((slot, found))
            if self.model.revision > before:
                self._look_at_guarded(state)
                self._look_at_items(state)

    def _note_revisions(self, before: int) -> None:
        for revision in range(before + 1, self.model.revision + 1):
            self._made_at[revision] = self.model.now
            self._events += len(self.model.order[revision])
            self._events_to[revision] = self._events

    def _may_be_gone(self, operation: Operation) -> bool:
        """Whether it may be answered that history does not go back so far."""
        if isinstance(operation, Events):
            return self.may_be_compacted(operation.after + 1)
        # (A range or transaction of the present reads nothing that may be gone.)
        return self.may_be_compacted(min(_revisions(operation), default=self.model.revision))

    def may_be_compacted(self, revision: int) -> bool:
        """Whether a revision may be gone from history: compacted, or old and one of too many."""
        return revision < self.model.oldest or self.may_be_dropped(revision)

    def may_be_dropped(self, revision: int) -> bool:
        """The same for what nobody asked for."""
        if revision not in self._made_at:
            return revision < 1
        old = self.model.now - self._made_at[revision] >= history.KEPT_NS
        return old and self._events - self._events_to[revision] >= history.KEPT_EVENTS

    # --- leases ------------------------------------------------------------------------------

    def _lease_ended(self, lease: int) -> None:
        self.ended.add(lease)
        self.counts["leases expired" if self._waking else "leases revoked"] += 1
        owner = self.owners.get(lease)
        if owner is not None and self._waking and self._in_time:
            require(
                not owner.believes(), "lost in time",
                "lease %x has ended, and its owner believes to have it", lease,
            )  # fmt: skip

    def lease_gone(self, lease: int) -> None:
        """A client is told that there is no such lease."""
        require(
            lease in self.ended, "as the model", "lease %x is said to have ended, it has not", lease
        )

    def time_left(self, lease: int, asked_at: int, result: Result) -> None:
        """A client is told what is left of a lease; it asked when the log's time was `asked_at`."""
        if result is None:
            self.lease_gone(lease)
            return
        left, ttl, _ = result
        found = self.model.leases.get(lease)
        latest = found[1] if found is not None else self.model.now + ttl * _MS
        require(
            left <= ttl and left * _MS <= latest - asked_at, "as the model",
            "lease %x is said to live for %d ms more of %d", lease, left, ttl,
        )  # fmt: skip

    # --- locks -------------------------------------------------------------------------------

    def contenders(self, name: str, state: dict[bytes, Entry]) -> list[tuple[int, bytes]]:
        """Those of a lock, oldest first: fence and key."""
        segment = next(value for kind, value in _SEGMENTS.items() if name.startswith(kind))
        start = (name + segment).encode()
        return sorted(
            (entry.created, key)
            for key, entry in state.items()
            if key.startswith(start)
            and entry.lease
            and key == start + b"%x" % entry.lease
            and bool(entry.value) is (segment != "/")
        )

    def holders(self, name: str, state: dict[bytes, Entry]) -> list[tuple[int, bytes]]:
        """Those contenders that hold: one, or as many as have a permit, or all first readers."""
        found = self.contenders(name, state)
        if name.startswith("~sem"):
            return found[:PERMITS]
        if name.startswith("~rw"):
            readers = list(takewhile(lambda each: state[each[1]].value == b"read", found))
            return readers or found[:1]
        return found[:1]

    def acquired(self, name: str, key: bytes, fence: int, revision: int) -> None:
        """Somebody says that it holds a lock or a place, by what it read at a revision."""
        found = self.holders(name, self.model.states[revision])
        require(
            (fence, key) in found, "one holder",
            "%r holds %s with fence %d, and its holders are %r", key, name, fence, found,
        )  # fmt: skip
        require(
            (name, fence) not in self._fences, "one holder",
            "a second one holds %s with fence %d", name, fence,
        )  # fmt: skip
        self._fences.add((name, fence))
        self.counts["locks held" if name.startswith("~lock") else "places held"] += 1

    def _look_at_guarded(self, before: dict[bytes, Entry]) -> None:
        """What the revision just made has written under a lock."""
        for key in self.model.order[self.model.revision]:
            entry = self.model.state.get(key)
            if not key.startswith(GUARDED) or entry is None:
                continue
            fence = int(entry.value.partition(b" ")[0])
            name = key.removeprefix(GUARDED).decode()
            found = self.holders(name, before)
            highest = 0 if name.startswith("~sem") else self._highest.get(key, 0)
            alone = name.startswith("~sem") or len(found) == 1
            require(
                fence in [each for each, _ in found] and alone and fence >= highest, "guarded",
                "%r is written with fence %d after %d, and its holders are %r",
                key, fence, highest, found,
            )  # fmt: skip
            self._highest[key] = fence
            self.counts["guarded writes"] += 1

    def read_under(self, name: str, fence: int, value: bytes | None) -> None:
        """A reader that holds has read what a writer wrote: one from before it."""
        require(
            value is None or int(value.partition(b" ")[0]) < fence, "guarded",
            "a reader of %s with fence %d has read %r", name, fence, value,
        )  # fmt: skip
        self.counts["guarded reads"] += 1

    # --- queues and barriers -----------------------------------------------------------------

    def _look_at_items(self, before: dict[bytes, Entry]) -> None:
        """An item goes with its claim, at once; and what is done of it is written once."""
        model = self.model
        for key in model.order[model.revision]:
            if key.startswith(b"~done/") and key in model.state:
                require(model.state[key].version == 1, "done once", "%r is done twice", key)
                self.counts["items done"] += 1
            if not key.startswith(_ITEMS) or key in model.state:
                continue
            claim = key.replace(_ITEMS, _CLAIMS)
            require(
                claim in before and claim not in model.state, "done once",
                "item %r is gone, and its claim was %r", key, before.get(claim),
            )  # fmt: skip

    def claimed(self, item: bytes, fence: int, lease: int) -> None:
        """A consumer says that it has an item."""
        claim = self.model.states[fence].get(item.replace(_ITEMS, _CLAIMS))
        require(
            claim and claim.lease == lease and claim.created == fence, "done once",
            "item %r is claimed with fence %d by lease %x: %r", item, fence, lease, claim,
        )  # fmt: skip
        require((str(item), fence) not in self._fences, "done once", "%r has two consumers", item)
        self._fences.add((str(item), fence))
        self.counts["items claimed"] += 1

    def finished(self, item: bytes) -> None:
        """A consumer is told that it is done with an item."""
        require(
            item not in self.model.state and item not in self._finished, "done once",
            "two consumers are done with %r, or none", item,
        )  # fmt: skip
        self._finished.add(item)

    def met(self, prefix: bytes, fence: int, meeting: int, parties: int) -> None:
        """One goes on from a barrier: so many were there at once, itself among them."""
        states = self.model.states
        for revision in range(fence, meeting + 1):
            there = [e.created for key, e in states[revision].items() if key.startswith(prefix)]
            if len(there) >= parties and fence in there:
                self.counts["meetings"] += 1
                return
        require(False, "all there", "one with fence %d goes on, alone, in %d", fence, meeting)

    # --- what clients are told ---------------------------------------------------------------

    def acknowledged(self, operation: Operation, since: int, result: Result) -> None:
        """A command's answer, which was asked for after slot `since` had been executed."""
        found = _kinds(result)
        require(
            any(
                slot > since and answer == found
                for slot, answer in self._answers[encode_operations([operation])]
            ),
            "as the model", "%r was answered %r, by no slot after %d", operation, result, since,
        )  # fmt: skip
        if type(result) is list and type(result[0]) is bool:
            self.told = max(self.told, result[1])

    def read(self, wanted: Range | Txn, floor: int, result: Result) -> None:
        """A read's answer; before it was asked, clients had been told of revision `floor`."""
        if is_refusal(result):
            require(
                result.get("kind") == "compacted" and self._may_be_gone(wanted),
                "history kept", "%r was refused: %r", wanted, result,
            )  # fmt: skip
            return
        revision = result[0] if isinstance(wanted, Range) else result[1]
        require(
            floor <= revision <= self.model.revision, "as the model",
            "%r was answered as of revision %d; %d was told before", wanted, revision, floor,
        )  # fmt: skip
        model, present = self.model, (self.model.revision, self.model.oldest)
        model.revision, model.oldest = revision, 1
        expected = plain(model.run(wanted))
        model.revision, model.oldest = present
        require(
            _kinds(result) == expected, "as the model",
            "%r was answered %r in revision %d; it was %r", wanted, result, revision, expected,
        )  # fmt: skip
        self.told = max(self.told, revision)

    def begin_saving(self) -> tuple[int, int, set[int]]:
        """Somebody is about to save a backup: what it must not miss."""
        return self.told, self.model.now, set(self.model.leases)

    def saved(self, revision: int, state: State, begun: tuple[int, int, set[int]]) -> None:
        """A backup of a revision was saved; restored it would be this state, at a time of 0."""
        (floor, began, leases), model = begun, self.model
        found = {
            key: Entry(bytes(item.value), item.created, item.modified, item.version, item.lease)
            for key, item in state.data.items()
        }
        timely = floor <= revision <= model.revision < state.revision
        require(
            timely and found == model.states[revision],
            "as the model", "saved as of revision %d, after %d was told: %r; there was %r",
            revision, floor, found, model.states.get(revision),
        )  # fmt: skip
        for number, (ttl, due) in model.leases.items():
            lease = state.leases.get(number)
            require(
                lease.left(0) <= min(ttl, due - began) if lease else number not in leases,
                "as the model", "lease %x is saved as %r, and lives to %d", number, lease, due,
            )  # fmt: skip
        held = {entry.lease for entry in found.values()} - {0, *state.leases.ids()}
        require(not held, "as the model", "leases %r of keys are not in the backup", held)
        self.counts["backups saved"] += 1

    def watched(self, wanted: Events, told: int, result: Result) -> int:
        """A watcher that was told all up to `told` gets an answer; up to where it is told now."""
        through, events, *looked = result
        require(
            told < through <= self.model.revision, "watched once",
            "a watch that was told up to %d is told up to %d", told, through,
        )  # fmt: skip
        if wanted.look is not None and looked[0] is not None:
            self._seen_beside(wanted.look, through, looked[0])
        expected = self.happened(wanted, told, through)
        require(
            events == expected, "watched once",
            "from %d to %d %r is told %r; there happened %r", told, through, wanted, events,
            expected,
        )  # fmt: skip
        self.told = max(self.told, through)
        self.counts["events watched"] += len(events)
        return int(through)

    def _seen_beside(self, look: Range, through: int, result: Result) -> None:
        """A watcher was told what is there, too: as new as its news, and as it was then."""
        at = result[0]
        require(through <= at <= self.model.revision, "watched once", "it saw %d, before %d", at,
                through)  # fmt: skip
        expected = plain(self.model.range(msgspec.structs.replace(look, revision=at))[1:])
        require(result[1:] == expected, "watched once", "beside news it saw %r in %d; there was %r",
                result, at, expected)  # fmt: skip
        self.counts["looks beside news"] += 1

    def quiet(self, wanted: Events, told: int, through: int) -> None:
        """A watcher that was told up to `told` is said to have missed nothing up to `through`."""
        expected = self.happened(wanted, told, min(through, self.model.revision))
        require(
            not expected, "watched once",
            "from %d to %d %r is told nothing; there happened %r", told, through, wanted, expected,
        )  # fmt: skip

    def happened(self, wanted: Events, after: int, through: int) -> Any:
        """The events of a watch in these revisions, whatever history has forgotten."""
        model, oldest = self.model, self.model.oldest
        if through <= after:
            return []
        model.oldest = 1
        events = model.events(
            Events(after, wanted.spans, wanted.puts, wanted.deletes, wanted.previous)
        )[1]
        model.oldest = oldest
        return plain([event for event in events if event[0][3] <= through])

    def cut_off(self, position: int, *, held: bool) -> None:
        """A watch at `position` is told that history does not go back so far.

        One that a server holds has missed nothing: compacting takes no event from it.
        """
        gone = self.may_be_dropped if held else self.may_be_compacted
        require(
            gone(position + 1), "history kept",
            "a watch complete through %d is told that this is compacted", position,
        )  # fmt: skip
        self.counts["watches cut off"] += 1


def _as_sent(operation: Any) -> Any:
    """What a server decodes as the item that it makes was a put."""
    return Put(operation.key, operation.value) if type(operation) is Item else operation


def _revisions(operation: Any) -> list[int]:
    """The revisions that it asks for, inner operations included."""
    revision = getattr(operation, "revision", 0)
    inner = [*getattr(operation, "then", ()), *getattr(operation, "otherwise", ())]
    return [revision] * bool(revision) + [r for each in inner for r in _revisions(each)]
