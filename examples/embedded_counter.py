"""Replicate your own state machine: three servers as actors inside one program.

In real use each of the three runs in a program of its own, on its own machine; only the addresses
change. One program for all keeps the example in one file.

    python examples/embedded_counter.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from paxon import (
    CommandClient,
    Execute,
    PaxosServer,
    ServerRef,
    Settings,
    StateMachine,
    start_server,
)
from paxon.kvstore.client.addresses import free_ports

SERVERS = (1, 2, 3)


class Counter(StateMachine):
    """Adds up numbers. Deterministic: state and reply depend on the commands alone."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, command: bytes) -> bytes:
        """Add the number in the command; the reply is the new total."""
        self.total += int(command)  # what is no number raises: the caller gets that as an error
        return str(self.total).encode()

    def query(self, query: bytes) -> bytes:
        """Reads change nothing, and so need no place in the log."""
        return str(self.total).encode()

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


def start_all(directory: Path) -> tuple[list[ServerRef[PaxosServer]], list[str]]:
    """Start three servers; their references, and where clients reach them."""
    ports = free_ports(2 * len(SERVERS))
    peers = {server: f"tcp://127.0.0.1:{ports[server - 1]}" for server in SERVERS}
    clients = {server: f"tcp://127.0.0.1:{ports[server + 2]}" for server in SERVERS}
    references = [
        start_server(
            Settings(cluster="counting", server=server, servers=SERVERS, client_addresses=clients),
            Counter(),
            directory=directory / f"server-{server}",
            peers=peers,
            client_bind=clients[server],
        )
        for server in SERVERS
    ]
    return references, list(clients.values())


def main() -> None:
    """Count over the network, count inside the leader's program, and lose a server."""
    with tempfile.TemporaryDirectory() as directory:
        references, addresses = start_all(Path(directory))
        try:
            # From anywhere: a client that finds the leader and never has a command run twice.
            with CommandClient(addresses) as client:
                for number in (1, 2, 3):
                    print("add", number, "→", client.execute(b"%d" % number).decode())
                print("total:", client.query(b"total").decode())

                # Inside the leader's own program: the actor itself.
                leader = next(
                    references[reply.server - 1]
                    for reply in client.status().values()
                    if reply.role == "leader"
                )
                print("add 4 →", leader.ask(Execute(b"4")).get(timeout=5).decode())

                # Two of three are a majority: nothing is lost when the leader's program ends.
                leader.stop()
                print("the leader is gone; total:", client.query(b"total").decode())
                print("add 5 →", client.execute(b"5").decode())
        finally:
            for reference in references:
                reference.stop()


if __name__ == "__main__":
    main()
