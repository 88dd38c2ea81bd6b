"""`PaxosServer`'s care for its data directory: an old copy must not vote (docs/old-copies.md).

Split off for reading in a sitting only: there is one server class, and this is part of it. What
belongs to whom is said at the head of actors/server.py.
"""

from __future__ import annotations

from abc import abstractmethod

from paxon.actors.ballot import ServerId
from paxon.actors.bounds import MAX_COUNT_JUMP
from paxon.actors.counts import SAY_AGAIN, Confirmation, in_list
from paxon.actors.environment import Environment, ServerBurst
from paxon.actors.membership import Membership
from paxon.actors.messages import (
    CountAnswer,
    CountQuestion,
    Introduction,
    SlotRequest,
    StatusRequest,
)
from paxon.actors.settings import Settings
from paxon.actors.state_machine import StateMachine
from paxon.actors.storage import StorageError
from paxon.transport.log import logger

__all__ = ["Confirming"]

DOUBT_INTERVAL = 1.0
"""Seconds between two questions of a server that was told of another directory than its own."""


class Confirming(Membership):
    """Takes part only once others have said that they know of no later state of its directory."""

    def __init__(self, settings: Settings, machine: StateMachine, environment: Environment) -> None:
        super().__init__(settings, machine, environment)
        self._peer_handlers.update(
            {CountQuestion: self.on_count_question, CountAnswer: self.on_count_answer}
        )

    def _begin_confirmation(self, *, in_force: bool) -> None:
        """Ask the others about this directory before anything is stored or answered."""
        storage, now = self._storage, self._now
        pending = not storage.created and not (in_force and self._majority == 1)
        self._confirmation = Confirmation(
            storage.count, now, pending=pending, may_store=not in_force
        )
        if storage.moved:
            logger.warning(
                "server {}: its database is another file than the one that it wrote last: a copy "
                "was put back. It serves once all other servers have said that they know of no "
                "later state of it, or after {} s a majority",
                self.settings.server, self.settings.election_timeout_max,
            )  # fmt: skip
            self._confirmation.all_until = now + self.settings.election_timeout_max

    def _handle_unconfirmed(self, burst: ServerBurst) -> None:
        """Answer and take in what concerns counts; nothing else changes or leaves this server.

        Clients are sent elsewhere, stale reads too: this state may be older than its name says.
        """
        for sender, _, received in burst.peers:
            for message in received:
                kind = type(message)
                # (To tell a server which cluster this is changes nothing here.)
                member = kind in (CountQuestion, CountAnswer) and sender in self._others
                if member or kind is Introduction:
                    self._peer_handlers[kind](message, sender)
        self._allow_time()
        for client, requests in burst.clients:
            for request in requests:
                if type(request) in (StatusRequest, SlotRequest) and not self._spent:
                    self._client_handlers[type(request)](request, client)
                else:
                    self._refuse(client)

    def _ask_for_confirmation(self) -> None:
        """Ask whoever has not answered yet; a time may have passed that changes how many must."""
        confirmation = self._confirmation
        self._settle_confirmation()
        if not confirmation.pending:
            return
        confirmation.ask_at = self._now + self.settings.retransmit_interval
        self._ask_for_counts()
        if self._now >= confirmation.say_at:
            confirmation.say_at = self._now + SAY_AGAIN
            logger.warning("server {} {}", self.settings.server, self.waits_for())

    def _ask_for_counts(self) -> None:
        confirmation = self._confirmation
        if not confirmation.life:
            confirmation.life = 1 + self._random.getrandbits(62)
        starting = confirmation.starting
        count = confirmation.count if starting else self._storage.count
        question = CountQuestion(confirmation.life, self._storage.incarnation, count, not starting)
        for server in confirmation.unanswered(self._others):
            self._send(server, question)

    def waits_for(self) -> str:
        """What keeps this server from taking part, for people; "" if nothing does."""
        confirmation = self._confirmation
        if not confirmation.pending:
            return ""
        return (
            f"waits for confirmation by {in_list(confirmation.unanswered(self._others))} that its "
            f"data directory is not an old copy (docs/old-copies.md)"
        )

    def on_count_question(self, question: CountQuestion, sender: ServerId) -> None:
        """Say what is known here of a server's directory."""
        known = self._peers.get(sender, 0)
        remembered = self._counts.get(sender, 0) if known == question.incarnation else 0
        if question.running and question.count < remembered:
            # It was confirmed and runs, so that it knows best: the higher number came in a frame
            # that was damaged, or not its own. It must not be refused for that when it restarts.
            self._counts[sender] = max(question.count, remembered - MAX_COUNT_JUMP)
        self._send(sender, CountAnswer(question.life, known, remembered))

    def on_count_answer(self, answer: CountAnswer, sender: ServerId) -> None:
        """Stop if this directory is not what the others know; else take part with a majority.

        An answer to the question of the start counts even if a majority was quicker with theirs.
        """
        confirmation = self._confirmation
        if answer.life != confirmation.life or not confirmation.life:
            return
        mine = self._storage.incarnation
        # What was told since the question may be remembered by now, and is on this disk.
        held = confirmation.count if confirmation.pending else self._storage.count
        if confirmation.starting and answer.incarnation == mine and answer.remembered > held:
            raise StorageError(
                f"server {self.settings.server}'s data directory is an old copy: it ends at commit "
                f"{held}, and server {sender} was told of commit {answer.remembered}. Nothing was "
                f"changed in it: bring back the newest one, or empty it and start once with "
                f"--rejoin"
            )
        if answer.incarnation in (0, mine) or not self.voting:
            confirmation.confirmed_by.add(sender)
        else:
            confirmation.denied_by.add(sender)
            if confirmation.is_hopeless(self._others, self._majority):
                raise StorageError(
                    f"server {self.settings.server}'s data directory is not the one that the "
                    f"cluster knows: give that one back, or empty it and start once with --rejoin"
                )
        self._settle_confirmation()

    def _settle_confirmation(self) -> None:
        confirmation = self._confirmation
        if not confirmation.pending:
            return
        if not confirmation.is_enough(self._others, self._majority, self._now):
            if confirmation.all_until > self._now:
                confirmation.ask_at = min(confirmation.ask_at, confirmation.all_until)
            return
        confirmation.pending = False
        # Before anything leaves: what was found may not have been synced (a crash in a commit).
        self._storage.maintain(tidy=False)
        self._next_count = self._storage.count + 1
        self._on_confirmed()
        self._maybe_snapshot()

    @abstractmethod
    def _maybe_snapshot(self) -> None:
        """Take a snapshot if one is due."""

    @abstractmethod
    def _on_confirmed(self) -> None:
        """This server takes part from now on."""

    def _note_count(self, server: ServerId, count: int) -> None:
        """A server that was confirmed itself tells of a commit of its directory.

        Remembered on disk with the next commit. At most so much a message: see actors/bounds.py.
        """
        known = self._counts.get(server, 0)
        if count > known:
            self._counts[server] = min(count, known + MAX_COUNT_JUMP)

    def _disks_known(self) -> list[tuple[ServerId, int, int]]:
        """By which directory, and how many commits of it, each server is known here."""
        counts = self._counts
        known = [(server, number, counts.get(server, 0)) for server, number in self._peers.items()]
        known.append((self.settings.server, self._storage.incarnation, self._next_count - 1))
        return known

    def _compare_disks(self, told: list[tuple[ServerId, int, int]], alive: list[ServerId]) -> None:
        """Learn from the leader what it knows of all directories, and doubt one's own if need be.

        Two followers may never talk until the leader is gone: by then they have to know how far
        each other's directories are, or an old one would pass for the one that voted.
        """
        for server, incarnation, count in told:
            if server == self.settings.server:
                if incarnation != self._storage.incarnation or count >= self._next_count:
                    self._doubt_own_disk()
                continue
            if server in alive and server in self._peers:
                self._told_alive[server] = (incarnation, self._now)
            if self._peers.get(server) == incarnation:
                self._note_count(server, count)

    def _doubt_own_disk(self) -> None:
        """One message is no proof: ask all whether they know this server by another directory.

        A majority's answers, and not one frame, stop it. A count too high it contradicts.
        """
        if self.voting and self._now >= self._confirmation.ask_at:
            self._confirmation.ask_at = self._now + DOUBT_INTERVAL
            self._confirmation.ask_anew()
            self._ask_for_counts()
