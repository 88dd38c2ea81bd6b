"""The client core under random faults: what it reports has to be what happened."""

from __future__ import annotations

import random
from collections import deque

import pytest

from paxon.actors.messages import ClientMessage, ServerReply
from paxon.kvstore.client.core import ClientCore, CoreOptions, KVTicket
from paxon.kvstore.errors import OutcomeUnknown, RequestTimeout
from paxon.kvstore.store.operations import Append, Get, decode_results, encode_operations
from tests.kvstore.client.core_world import A, B, C
from tests.kvstore.client.fake_cluster import FakeCluster


class Storm:
    """Late, lost and refused messages, changing leaders, expiring sessions; then calm."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.cluster = FakeCluster([A, B, C])
        options = CoreOptions(
            batch_weight=self.random.choice([1, 2, 512]),
            eager=self.random.choice([1, 3, 100]),
            window=self.random.choice([4, 1024]),
        )
        self.core = ClientCore([self.random.choice([A, B, C])], self.random, options=options)
        self.to_servers: dict[str, deque[list[ClientMessage]]] = {a: deque() for a in (A, B, C)}
        self.to_client: dict[str, deque[list[ServerReply]]] = {a: deque() for a in (A, B, C)}
        self.calm = False

    def step(self) -> None:
        draw = self.random.random
        self.now += self.random.choice([0.0, 0.001, 0.02, 0.1])
        for address, messages in self.core.poll(self.now):
            if self.calm or draw() > 0.1:
                self.to_servers[address].append(messages)
        for address in (A, B, C):
            requests, replies = self.to_servers[address], self.to_client[address]
            if requests and (self.calm or draw() < 0.6):
                answer = self.cluster.serve(address, requests.popleft())
                if self.calm or draw() > 0.1:
                    replies.append(answer)
            if replies and (self.calm or draw() < 0.6):
                self.core.receive(address, replies.popleft(), self.now)
        if not self.calm:
            self._disturb(draw())

    def _disturb(self, draw: float) -> None:
        if draw < 0.02:
            self.cluster.leader = self.random.choice([A, B, C, "nobody"])
            self.cluster.hint = self.random.choice([None, None, "", A, B])
        elif draw < 0.03:
            self.cluster.expire_sessions()
        elif draw < 0.06:
            self.cluster.busy = self.random.randrange(5)

    def calm_down(self) -> None:
        self.calm = True
        self.cluster.leader, self.cluster.hint, self.cluster.busy = C, None, 0

    def finish(self, seed: int) -> None:
        """Until nothing is asked for any more."""
        for _ in range(2000):
            if self.core.idle:
                break
            self.step()
        assert self.core.idle, f"seed {seed}: something never ended"
        assert self.core.next_deadline() == float("inf")

    def stored(self, key: str) -> list[int]:
        reply = self.cluster.application.machine.query(encode_operations([Get(key.encode())]))
        value = decode_results(reply)[0] or b""
        return [int(token) for token in value.split()]


@pytest.mark.parametrize("block", range(6))
def test_outcomes_are_what_is_reported(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        storm = Storm(seed)
        chains: dict[str, list[KVTicket]] = {"chain0": [], "chain1": [], "loose": []}
        for _ in range(150):
            key = storm.random.choice(list(chains))
            tickets = chains[key]
            if storm.random.random() < 0.3:
                before = tickets[-1] if tickets and key != "loose" else None
                timeout = storm.random.choice([0.3, 2.0, 20.0])
                operation = Append(key.encode(), b"%d " % len(tickets))
                tickets.append(
                    storm.core.submit_operations(
                        [operation], now=storm.now, deadline=storm.now + timeout,
                        ordered_after=before,
                    )
                )  # fmt: skip
                tickets[-1].keeps = storm.random.random() < 0.5
            elif storm.random.random() < 0.1:
                ask_again(storm, chains[key], storm.random.choice([0.3, 2.0]))
            storm.step()
        storm.calm_down()
        storm.finish(seed)
        for tickets in chains.values():
            for _ in tickets:
                ask_again(storm, tickets, 30.0)
        storm.finish(seed)
        for key, tickets in chains.items():
            check(seed, key, tickets, storm.stored(key))


def ask_again(storm: Storm, tickets: list[KVTicket], timeout: float) -> None:
    """One whose outcome is unknown, if there is any: with the ticket in its place."""
    may = [
        number
        for number, ticket in enumerate(tickets)
        if isinstance(ticket.error, RequestTimeout) and ticket.error.kept is not None
    ]
    if may:
        number = storm.random.choice(may)
        error = tickets[number].error
        assert isinstance(error, RequestTimeout)
        try:
            tickets[number] = storm.core.ask_again(
                error.kept, now=storm.now, deadline=storm.now + timeout
            )
        except OutcomeUnknown:
            error.kept = None


def check(seed: int, key: str, tickets: list[KVTicket], stored: list[int]) -> None:
    where = f"seed {seed}, {key}: {stored}"
    assert len(set(stored)) == len(stored), f"{where}: executed twice"
    for number, ticket in enumerate(tickets):
        assert ticket.done
        if ticket.error is None:
            assert number in stored, f"{where}: {number} was acknowledged"
        elif not (isinstance(ticket.error, RequestTimeout) and ticket.error.sent):
            said = f"{number} was said to have no effect: {ticket.error!r}"
            assert number not in stored, f"{where}: {said}"
    if key != "loose" and stored:
        assert stored == list(range(len(stored))), f"{where}: out of order"
