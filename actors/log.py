"""The slot log: what this server accepted in each slot, and which of it is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal
from zlib import crc32

import msgspec

from paxon.actors.ballot import NO_BALLOT, Ballot
from paxon.actors.invariants import invariant
from paxon.actors.messages import CONFIG, Accepted

__all__ = ["Slot", "SlotLog", "SlotStatus"]

SlotStatus = Literal["EMPTY", "ACCEPTED", "CHOSEN", "CLEARED"]

SLOT_BYTES = 16
"""What a slot takes in a message besides its value, about."""


class Slot(msgspec.Struct, gc=False):
    """One position of the log: the last accepted value, its ballot, and whether it is chosen."""

    ballot: Ballot
    value: bytes
    checksum: int
    """CRC-32 of the value, taken once: for its row on the disk and for the chain of hashes."""
    chosen: bool = False


class SlotLog:
    """Slots `discarded + 1` … `last`, of which those up to `chosen_to` are chosen without a gap.

    Slots become chosen in any order; a gap only holds up `chosen_to` (rule 4).
    """

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self.discarded = 0
        """Slots up to here are gone: executed by all servers or covered by a durable snapshot."""
        self.chosen_to = 0
        """The commit index as far as this server knows: the end of its chosen prefix."""
        self.last = 0
        """The highest slot with anything in it, ever."""
        self.highest = NO_BALLOT
        """The highest ballot in which anything was ever accepted."""
        self.value_bytes = 0
        """The size of all values held."""
        self.configs: set[int] = set()
        """Slots that hold a CONFIG, chosen or not; none up to the last seal."""

    def get(self, slot: int) -> Slot | None:
        return self._slots.get(slot)

    def __len__(self) -> int:
        return len(self._slots)

    def accept(self, slot: int, ballot: Ballot, value: bytes) -> int:
        """Take `value` as accepted in `ballot`, and return its checksum.

        The caller has checked the promise.
        """
        if ballot is not self.highest:
            self.highest = max(self.highest, ballot)
        held = self._slots.get(slot)
        if held is None:
            if slot <= self.discarded:
                invariant(False, "slot %d accepted after its discarding", slot)
            checksum = crc32(value)
            self._slots[slot] = Slot(ballot, value, checksum)
            self.value_bytes += len(value)
            self.last = max(self.last, slot)
            if value and value[0] == CONFIG:
                self.configs.add(slot)
            return checksum
        invariant(ballot >= held.ballot, "the ballot accepted in slot %d would fall", slot)
        if held.value != value:
            # PMMC §2.2, invariant A4/A5: one ballot proposes one value a slot, and what is chosen
            # is what every higher ballot proposes.
            invariant(not held.chosen, "slot %d chosen twice: another value is proposed", slot)
            invariant(ballot > held.ballot, "slot %d: two values in ballot %s", slot, ballot)
            self.value_bytes += len(value) - len(held.value)
            held.value = value
            held.checksum = crc32(value)
            self.configs.discard(slot)
            if value and value[0] == CONFIG:
                self.configs.add(slot)
        held.ballot = ballot
        return held.checksum

    def choose(self, slot: int) -> None:
        """Mark the accepted value of `slot` as chosen, and move `chosen_to` over what is."""
        slots = self._slots
        held = slots.get(slot)
        if held is None:
            invariant(False, "slot %d chosen while empty", slot)
            return
        held.chosen = True
        if slot == self.chosen_to + 1:
            while (held := slots.get(slot + 1)) is not None and held.chosen:
                slot += 1
            self.chosen_to = slot

    def choose_accepted(self, ballot: Ballot, last: int) -> None:
        """Choose what follows the chosen prefix, up to `last`, as far as this ballot accepted it.

        (Like `choose` for each in turn, which a follower's every slot would take twice the time.)
        """
        slots, chosen_to = self._slots, self.chosen_to
        while (held := slots.get(chosen_to + 1)) is not None and (
            (chosen_to < last and held.ballot == ballot) or held.chosen
        ):
            held.chosen = True
            chosen_to += 1
        self.chosen_to = chosen_to

    def learn(self, slot: int, ballot: Ballot, value: bytes) -> Slot | None:
        """Take over a value that another server knows as chosen; None if it was known here."""
        held = self._slots.get(slot)
        if slot <= self.discarded:
            return None
        if held is not None and held.chosen:
            invariant(held.value == value, "slot %d chosen twice: learned another value", slot)
            return None
        if held is None or held.ballot <= ballot:
            if held is not None and held.ballot == ballot:
                invariant(held.value == value, "slot %d: two values in ballot %s", slot, ballot)
            self.accept(slot, ballot, value)
        else:
            # Accepted in a ballot above one in which `value` was chosen: it must be the same.
            invariant(held.value == value, "slot %d: chosen value not carried upward", slot)
        self.choose(slot)
        return self._slots[slot]

    def chunk(self, first: int, last: int, size: int) -> tuple[list[Accepted], int]:
        """The values accepted from slot `first` to `last`, up to `size` bytes; and the next slot.

        0 as the next slot: that is all.
        """
        taken: list[Accepted] = []
        for accepted in self.accepted_from(first):
            if accepted.slot > last:
                break
            if size <= 0:
                return taken, accepted.slot
            taken.append(accepted)
            size -= len(accepted.value) + SLOT_BYTES
        return taken, 0

    def accepted_from(self, first: int) -> Iterator[Accepted]:
        """The values accepted from slot `first` on, in order."""
        for slot in range(max(first, self.discarded + 1), self.last + 1):
            held = self._slots.get(slot)
            if held is not None:
                yield Accepted(slot, held.ballot, held.value)

    def discard_to(self, slot: int) -> None:
        """Forget slots up to `slot`; all of them must be chosen. The caller has executed them."""
        invariant(slot <= self.chosen_to, "slot %d discarded before it was chosen", slot)
        for gone in range(self.discarded + 1, slot + 1):
            held = self._slots.pop(gone, None)
            if held is not None:
                self.value_bytes -= len(held.value)
        self.discarded = max(self.discarded, slot)

    def recover(self, held: Iterable[Accepted], chosen_to: int, sealed_to: int) -> None:
        """Take up what a disk holds beyond the snapshot; up to `chosen_to` it knew it as chosen.

        A CONFIG above `sealed_to` still ends its epoch, chosen or not.
        """
        for accepted in held:
            if accepted.slot > self.discarded:
                self.accept(accepted.slot, accepted.ballot, accepted.value)
        for slot in range(self.chosen_to + 1, chosen_to + 1):
            if slot not in self._slots:
                break
            self.choose(slot)
        self.configs = {slot for slot in self.configs if slot > sealed_to}

    def seal(self, slot: int) -> None:
        """An epoch has ended with `slot`: what it left above goes (docs/membership.md, M2)."""
        invariant(self.chosen_to == slot, "sealed at %d, chosen up to %d", slot, self.chosen_to)
        for gone in [s for s in self._slots if s > slot]:
            held = self._slots.pop(gone)
            invariant(not held.chosen, "slot %d, above the seal at %d, is chosen", gone, slot)
            self.value_bytes -= len(held.value)
        self.last = slot
        self.configs.clear()

    def restart_at(self, slot: int) -> None:
        """A snapshot of the state after `slot` replaces everything up to it."""
        for gone in [s for s in self._slots if s <= slot]:
            self.value_bytes -= len(self._slots.pop(gone).value)
        self.discarded = max(self.discarded, slot)
        self.last = max(self.last, slot)
        self.configs = {held for held in self.configs if held > slot}
        if slot > self.chosen_to:
            self.chosen_to = slot
            following = self._slots.get(slot + 1)
            if following is not None and following.chosen:
                self.choose(slot + 1)

    # What tests look at.

    def status(self, slot: int) -> SlotStatus:
        if slot <= self.discarded:
            return "CLEARED"
        held = self._slots.get(slot)
        if held is None:
            return "EMPTY"
        return "CHOSEN" if held.chosen else "ACCEPTED"

    def command(self, slot: int) -> bytes | None:
        """The value held in `slot`; None if it is empty or cleared."""
        held = self._slots.get(slot)
        return None if held is None else held.value
