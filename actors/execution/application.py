"""The user's state machine wrapped in sessions: executes slots, each command at most once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from zlib import crc32

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot
from paxon.actors.execution.agreed import (
    Agreed,
    Change,
    apply_change,
    decode_agreed,
    encode_agreed,
    encode_in_short,
)
from paxon.actors.execution.digests import HashChain
from paxon.actors.execution.machine_errors import (
    ALLOWANCE,
    ExecutionFailed,
    MachineFailure,
    bytes_from,
    depends_on_process,
    error_reply,
    in_short,
    with_allowance,
)
from paxon.actors.execution.sessions import (
    EXPIRED,
    NO_ROOM,
    NOT_ACKNOWLEDGED,
    OUT_OF_ORDER,
    SLOT_IS_FULL,
    Reply,
    SessionTable,
)
from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.execution.timer import MachineTimer
from paxon.actors.invariants import invariant
from paxon.actors.limits.allowances import (
    LARGE_REPLY,
    LARGEST_REPLY,
    SLOT_REPLIES,
    SLOT_REPLIES_AT_MOST,
)
from paxon.actors.messages import CONFIG, NO_OP, RENEWAL, SETTINGS, Batch, Entry, Made, ReplyStatus
from paxon.transport.log import logger

__all__ = ["Application", "Executed", "encode_batch", "decode_batch"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)

_TOLD_BYTES = 64 << 10
"""A state machine's figures, or its fingerprint, are not told if they take more."""

Told = TypeVar("Told", bytes, int)
Executed = tuple[Entry, Reply]
"""A command of an executed slot and how it ended (for the client that waits, if any)."""

RECURSED = Reply(
    ReplyStatus.FAILED, b"RecursionError: the command nested more than %d calls" % ALLOWANCE
)
"""In our own words, the same on every server: Python's say where it happened to notice."""


def encode_batch(batch: Batch) -> bytes:
    """The value of a slot: encoded once, passed on as opaque bytes to followers and disk."""
    return _encoder.encode(batch)


def decode_batch(value: bytes) -> Batch:
    """Decode a slot's value. Raises `msgspec.DecodeError`."""
    return _decoder.decode(value)


class _Head(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Leads a snapshot's image; the state machine's own bytes follow."""

    slot: int
    sessions: bytes
    agreed: bytes
    digest_version: int
    digest: bytes
    """The hash after `slot` (actors/execution/digests.py)."""
    tired: bool
    """See `MachineTimer`."""
    configuration: bytes
    """The last CONFIG up to `slot`; b"": none."""
    reign: Ballot
    """See `Application`."""


_head_decoder = msgspec.msgpack.Decoder(_Head)


class Application:
    """State machine, sessions and what is agreed after executing slots 1 … `executed`, in order.

    What a command comes to depends on the log alone (rule 15): the state machine's methods have the
    same room for recursion everywhere, and an error of this process stops it (`MachineFailure`).
    """

    def __init__(self, machine: StateMachine, agreed: Agreed, identity: int = 0) -> None:
        """Wrap a fresh state machine, under the settings with which the cluster was made.

        `identity` is the cluster's, so that its sessions' ids are no other cluster's.
        """
        self.machine = machine
        self.timer = MachineTimer(machine)
        self._rang = b""
        """What came of waking the machine in the slot being executed."""
        kind = type(machine)
        self._enters = kind.enter is not StateMachine.enter
        self._compares_part = kind.comparable is not StateMachine.comparable
        self.sessions = SessionTable(agreed, identity)
        if kind.reply_bytes is not StateMachine.reply_bytes:
            self.sessions.count = self._reply_bytes
        self.executed = 0
        self.configuration = b""
        """The last CONFIG that was executed (actors/records/configuration.py); b"": none was."""
        self.reign = NO_BALLOT
        """The ballot of the leader that packed the last batch executed (`Batch.reign`)."""
        self.chain = HashChain(agreed.digest_version)
        self._all_went_well = True
        """In the slot being executed every reply is OK."""
        self._slot_bytes = 0
        """What the replies of the slot at hand have come to so far."""
        self._large: set[int] = set()
        """Sessions that had a large reply in it."""
        self._complained = False
        """Whether it has been said that the machine cannot tell what it is asked of its replies."""
        self._tell("made", identity)
        self._agree(agreed)

    @property
    def time(self) -> int:
        """The log's time as of the last slot executed, nanoseconds."""
        return self.sessions.time

    def _agree(self, agreed: Agreed) -> None:
        self.agreed = self._agreed_next = agreed
        self.sessions.agree(agreed)
        self._tell("agree", dict(agreed.machine))

    def _tell(self, method: str, what: object) -> None:
        """Call a method of the machine without which it cannot go on. Raises `MachineFailure`."""
        try:
            getattr(self.machine, method)(what)
        except MachineFailure:
            raise
        except BaseException as error:  # the user's code may raise anything
            name = type(self.machine).__name__
            limits = f": it has to take every value that {name}.limits allows"
            raise MachineFailure(
                f"{name}.{method}() raised {in_short(error)}"
                + (limits if method == "agree" else ", which it must not")
            ) from error

    def begin_with(self, made: Made) -> None:
        """Execute by what was agreed when the cluster was made, whatever this server was told."""
        invariant(self.executed == 0, "made anew after slot %d", self.executed)
        agreed = decode_agreed(made.agreed, self.machine.limits)
        self.sessions.identify(made.identity)
        self._tell("made", made.identity)
        self._agree(agreed)
        self.chain.begin(agreed.digest_version, 0)

    def execute(
        self, slot: int, value: bytes, batch: Batch | None = None, checksum: int | None = None
    ) -> list[Executed]:
        """Execute the chosen value of the next slot.

        `batch` is its decoded form and `checksum` its CRC-32, if they are at hand.
        Raises `ExecutionFailed`, after which nothing here may be relied on.
        """
        if slot != self.executed + 1:
            invariant(False, "slot %d executed after %d", slot, self.executed)
        self.executed = slot
        if self._enters:
            self._tell("enter", slot)
        self._rang = b""
        results: list[Executed] = []
        if batch is None and value != NO_OP:
            if value[0] == CONFIG:
                self.configuration = value  # to the state machine it is nothing
            else:
                batch = decode_batch(value)
        if batch is not None:
            self._all_went_well = True
            results = with_allowance(self._execute_batch, slot, batch)
        self.chain.extend(
            slot, crc32(value) if checksum is None else checksum, self._outcome(results)
        )
        if self._agreed_next is not self.agreed:
            self._agree(self._agreed_next)  # in force from the next slot on
            if self.agreed.digest_version != self.chain.version:
                self.chain.begin(self.agreed.digest_version, slot)
        return results

    def _execute_batch(self, slot: int, batch: Batch) -> list[Executed]:
        """Renewals, then what is due, then the rest: one that comes in time is never too late."""
        entries, timer, sessions = batch.entries, self.timer, self.sessions
        self.reign = batch.reign
        sessions.advance(batch.time)
        time = self.machine.now = sessions.time
        if timer.tells:
            timer.advance(slot, time)
        self._slot_bytes = 0
        if self._large:
            self._large.clear()
        results: list[Executed] = []
        first = 0
        if timer.next is not None and timer.next <= time:
            first = self._execute_renewals(slot, entries, results)
            if timer.due is not None and timer.due <= time:
                self._rang = timer.ring(slot, time)
        # No comprehension: Python 3.11 gives it a frame of its own, later ones do not, and commands
        # are to have the same room on every server.
        for index, entry in enumerate(entries[first:] if first else entries, first):
            results.append((entry, self._execute_entry(slot, index, entry)))
        if timer.asks:
            timer.look(slot, commands=first < len(entries))
        return results

    def _execute_renewals(self, slot: int, entries: list[Entry], results: list[Executed]) -> int:
        """Execute those that come first in a slot; how many they are."""
        first = 0
        while first < len(entries) and entries[first].session == 0:
            if entries[first].acked != RENEWAL:
                break
            results.append((entries[first], self._execute_entry(slot, first, entries[first])))
            first += 1
        self.timer.look(slot, commands=first > 0)
        return first

    def _outcome(self, results: list[Executed]) -> bytes:
        """The part of the replies that enters the chain of hashes: of an error only its class.

        Its text may well hold an address in memory, or read otherwise in another Python. And
        what is agreed is told with all the names that this release and its state machine know.
        """
        if self._all_went_well and not self._compares_part:
            replies = _encoder.encode([reply.payload for _, reply in results])
        else:
            part = self._part if self._compares_part else None
            replies = _encoder.encode([_comparable(entry, reply, part) for entry, reply in results])
        return replies + self._rang

    def _part(self, payload: bytes) -> bytes:
        """The part of a reply that is compared: nothing, if the machine cannot tell which."""
        return with_allowance(self._of_reply, "comparable", payload, b"")

    def _reply_bytes(self, payload: bytes) -> int:
        # Within the batch's allowance: another inside it would raise Python's limit by some frames
        # in each slot, until no server could go on.
        return min(max(self._of_reply("reply_bytes", payload, 0), 0), 1 << 40)

    def _of_reply(self, method: str, payload: bytes, otherwise: Told) -> Told:
        """What the machine says of a reply; `otherwise`, if it cannot."""
        try:
            found = getattr(self.machine, method)(payload)
            if isinstance(found, type(otherwise)):
                return type(otherwise)(found)
            raise TypeError(f"it returned {found!r:.80}")
        except BaseException as error:  # the user's code may raise anything
            if depends_on_process(error):
                raise ExecutionFailed(self.machine, self.executed, error, method) from error
            if not self._complained:
                self._complained = True
                name, text = type(self.machine).__name__, in_short(error)
                logger.error("{}.{}() failed in slot {}: {}", name, method, self.executed, text)
            return otherwise

    def _execute_entry(self, slot: int, index: int, entry: Entry) -> Reply:
        if entry.session == 0:
            return self._execute_sessionless(slot, index, entry)
        sessions = self.sessions
        session = sessions.touch(entry)
        if session is None:
            self._all_went_well = False
            return EXPIRED
        seq = entry.seq
        known = session.known(seq)
        if known is not None:
            self._all_went_well = False
            return known
        if entry.after and not session.executed(entry.after):
            self._all_went_well = False
            return OUT_OF_ORDER
        if (
            session.kept >= sessions.max_kept_each or sessions.kept >= sessions.max_kept
        ) and sessions.is_full(session, seq):
            return self._put_off(NOT_ACKNOWLEDGED)
        if self._slot_bytes >= SLOT_REPLIES and self._slot_is_full(entry):
            return self._put_off(SLOT_IS_FULL)
        reply = self._apply(entry.command)
        size = sessions.keep(session, seq, reply)
        self._slot_bytes += size
        if size >= LARGE_REPLY:
            self._large.add(entry.session)
        return reply

    def _execute_sessionless(self, slot: int, index: int, entry: Entry) -> Reply:
        if entry.acked == SETTINGS:
            return self._change_settings(slot, entry.command)
        # Nothing enters the log before all servers know it, so this one would be of an old release.
        known = entry.acked in {0, RENEWAL}
        invariant(known, "slot %d has an entry of unknown kind %d", slot, entry.acked)
        if not entry.command:
            session_id = self.sessions.open(slot, index, entry.seq)
            if session_id is None:
                return self._put_off(NO_ROOM)
            return Reply(ReplyStatus.OK, session_id.to_bytes(8, "big"))
        if self._slot_bytes >= SLOT_REPLIES and self._slot_is_full(entry):
            return self._put_off(SLOT_IS_FULL)
        reply = self._apply(entry.command)
        self._slot_bytes += self.sessions.reply_bytes(reply)
        return reply

    def _change_settings(self, slot: int, body: bytes) -> Reply:
        """Decide about a change of what is agreed; the answer is what is agreed then."""
        before = self._agreed_next
        self._all_went_well = False  # what is answered is not compared as it is
        change = msgspec.msgpack.decode(body, type=Change)
        after = apply_change(before, change, slot, self.machine.limits)
        if after is None:
            text = f"the settings were changed meanwhile, in slot {before.changed_at}: look at them"
            return Reply(ReplyStatus.FAILED, text.encode())
        self._agreed_next = after
        return Reply(ReplyStatus.OK, encode_agreed(after))

    def _put_off(self, refusal: Reply) -> Reply:
        """Refuse what may well be executed when it comes again."""
        self._all_went_well = False
        return refusal

    def _slot_is_full(self, entry: Entry) -> bool:
        """Whether this command has to wait for another slot, so that no slot takes long."""
        return entry.session in self._large or self._slot_bytes >= SLOT_REPLIES_AT_MOST

    def _apply(self, command: bytes) -> Reply:
        try:
            payload = self.machine.apply(command)
            if type(payload) is not bytes:
                payload = bytes_from(self.machine, "apply", payload)
        except BaseException as error:  # the user's code may raise anything: the command's reply
            if depends_on_process(error):
                raise ExecutionFailed(self.machine, self.executed, error) from error
            self._all_went_well = False
            if issubclass(type(error), RecursionError):
                return RECURSED
            return Reply(ReplyStatus.FAILED, error_reply(error))
        return Reply(ReplyStatus.OK, payload)

    def check(self, command: bytes) -> bytes:
        """Why a command may not enter the log, for its client; b"" if it may.

        At the leader alone, so nothing of it is replicated: whatever happens, it stops nobody.
        """
        try:
            self.machine.check(command)
        except BaseException as error:  # the user's code may raise anything
            return error_reply(error)
        return b""

    def renews(self, command: bytes) -> bool:
        """Whether a command may go before all others, into no session. At the leader alone."""
        try:
            self.machine.check(command)
            short = len(command) <= self.agreed.max_command_bytes
            return short and bool(self.machine.renews(command))
        except BaseException:  # the user's code may raise anything
            return False

    def query(self, query: bytes, time: int = 0) -> Reply:
        """Answer a read from the state as it is, at a time of the log (at least the state's).

        An answer is no part of the state: whatever happens, it stops nobody.
        """
        self.machine.now = max(time, self.sessions.time)
        try:
            payload = self._readable("query", self.machine.query(query))
        except BaseException as error:
            return Reply(ReplyStatus.FAILED, error_reply(error))
        return Reply(ReplyStatus.OK, payload)

    # --- reads that wait: no part of the state, so whatever happens in them stops nobody ---------

    def watch(self, number: int, query: bytes) -> Reply | None:
        """Answer a read that waits, or have the state machine keep it."""
        try:
            payload = self.machine.watch(number, query)
            if payload is None:
                return None
            return Reply(ReplyStatus.OK, self._readable("watch", payload))
        except BaseException as error:
            return Reply(ReplyStatus.FAILED, error_reply(error))

    def unwatch(self, number: int) -> None:
        """Nobody waits for this read any more."""
        try:
            self.machine.unwatch(number)
        except BaseException as error:
            self._complain(error)

    def happened(self) -> list[tuple[int, Reply]] | None:
        """Reads that waited, with their answers; None if the state machine's method failed."""
        try:
            return [
                (number, Reply(ReplyStatus.OK, self._readable("happened", payload)))
                for number, payload in self.machine.happened()
            ]
        except BaseException as error:
            self._complain(error)
            return None

    def keeps(self, number: int) -> bool:
        """Whether the state machine keeps one of these still, from behind its answer on."""
        try:
            return bool(self.machine.keeps(number))
        except BaseException as error:
            self._complain(error)
            return False

    def watched_through(self) -> bytes:
        """As far as the reads that wait are complete."""
        try:
            return self._readable("watched_through", self.machine.watched_through())
        except BaseException as error:
            self._complain(error)
            return b""

    def _complain(self, error: BaseException) -> None:
        text = error_reply(error).decode(errors="replace")
        logger.error("watches of {}: {}", type(self.machine).__name__, text)

    def _readable(self, method: str, payload: object) -> bytes:
        """The answer to a read. Raises if it is no bytes, or more than can be sent."""
        answer = payload if type(payload) is bytes else bytes_from(self.machine, method, payload)
        if len(answer) > LARGEST_REPLY:
            raise ValueError(
                f"the answer has {len(answer)} bytes; at most {LARGEST_REPLY} can be sent"
            )
        return answer

    # --- snapshots -------------------------------------------------------------------------------

    def image(self) -> Iterable[bytes]:
        """The pieces of a snapshot of the state now; restore with `restore`."""
        head = _Head(
            self.executed, self.sessions.dump(),
            encode_in_short(self.agreed, self.machine.limits),
            self.chain.version, self.chain.head, self.timer.tired, self.configuration, self.reign,
        )  # fmt: skip
        return self._pieces(_encoder.encode(head))

    def _pieces(self, head: bytes) -> Iterator[bytes]:
        yield len(head).to_bytes(8, "big") + head
        state = with_allowance(self.machine.snapshot)
        yield bytes_from(self.machine, "snapshot", state)

    def restore(self, image: bytes) -> None:
        """Become the state that `image` describes.

        Raises `MachineFailure`, after which all of this is in an unknown state.
        """
        head, state = _split(image)
        invariant(head.slot >= self.executed, "snapshot at %d is behind", head.slot)
        self._agree(decode_agreed(head.agreed, self.machine.limits))
        self._restore_machine(head.slot, state)
        with_allowance(self.sessions.load, head.sessions)
        with_allowance(self._look_at_timer, head)
        self.executed = head.slot
        self.configuration = head.configuration
        self.reign = head.reign
        self.chain.begin(head.digest_version, head.slot, head.digest)
        self.chain.pin()

    def _look_at_timer(self, head: _Head) -> None:
        self.machine.now = self.sessions.time
        self.timer.restored(head.slot, tired=head.tired)

    def _restore_machine(self, slot: int, state: bytes) -> None:
        try:
            with_allowance(self.machine.restore, state)
        except BaseException as error:  # the user's code may raise anything
            raise MachineFailure(
                f"the snapshot at slot {slot} cannot be restored: {type(self.machine).__name__}."
                f"restore() raised {in_short(error)}; it has to take what snapshot() returns"
            ) from error

    def prove(self, image: bytes) -> None:
        """Restore an image, before it may be kept, in a copy of the process that ends soon.

        Raises `MachineFailure`.
        """
        head, state = _split(image)
        self._agree(decode_agreed(head.agreed, self.machine.limits))
        self._restore_machine(head.slot, state)

    def figures(self) -> dict[str, int]:
        """The state machine's own figures; none if they cannot be told, for nobody needs them."""
        try:
            found = {str(name): int(number) for name, number in self.machine.figures().items()}
            return found if len(_encoder.encode(found)) <= _TOLD_BYTES else {}
        except BaseException:  # the user's code may raise anything
            return {}

    def digest(self) -> str:
        """Fingerprint of state, sessions and settings, "" if the state machine offers none."""
        try:
            state = self.machine.digest()
            if not state or len(f"{state}".encode()) > _TOLD_BYTES:
                return ""
        except BaseException:  # the user's code may raise anything: asking stops nobody
            return ""
        rest = hashlib.blake2b(self.sessions.summary(), digest_size=8)
        rest.update(encode_in_short(self.agreed, self.machine.limits))
        return f"{state}-{rest.hexdigest()}"


def _comparable(
    entry: Entry, reply: Reply, part: Callable[[bytes], bytes] | None
) -> tuple[int, bytes]:
    if entry.session == 0 and entry.acked == SETTINGS:
        return reply.status, b""
    if reply.status == ReplyStatus.FAILED:
        return reply.status, reply.payload.partition(b": ")[0]
    if part is not None and entry.command and reply.status == ReplyStatus.OK:
        return reply.status, part(reply.payload)
    return reply.status, reply.payload


def _split(image: bytes) -> tuple[_Head, bytes]:
    length = int.from_bytes(image[:8], "big")
    return _head_decoder.decode(memoryview(image)[8 : 8 + length]), image[8 + length :]
