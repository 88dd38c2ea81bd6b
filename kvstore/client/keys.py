"""Encrypted connections of clients: docs/running/keys.md."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import zmq

from paxon.actors.members import AskMembers, Member, Members
from paxon.kvstore.client.command_core import CommandCore
from paxon.kvstore.client.links import Secure, server_addresses
from paxon.kvstore.client.requests import Ticket
from paxon.kvstore.errors import InvalidRequest
from paxon.transport import CurveKeys, check_key, require_curve, secure_client

__all__ = ["Keyring", "learner", "secure_with"]


class Keyring:
    """The servers' keys, each bound to a server and not to where it is reached.

    A client takes it as `secure`. A server that has proved who it is tells where servers are by
    now; the server that answers there has to prove the same.
    """

    def __init__(
        self, by_address: Mapping[str, str], by_server: Mapping[int, str], own: CurveKeys
    ) -> None:
        self._by_address = dict(by_address)
        self._by_server = dict(by_server)
        self._asked: set[str] = set()
        """Addresses for whose sake a server was asked about the members."""
        self._own = own

    def __call__(self, socket: zmq.Socket[bytes], address: str) -> None:
        """Prepare a socket. Raises ValueError for an address of nobody known."""
        if address not in self._by_address:
            raise ValueError(
                "no public key is known for this address: give the client that server's too"
            )
        secure_client(socket, self._own, self._by_address[address])

    def learn(self, addresses: Mapping[int, str], keys: Mapping[int, str]) -> bool:
        """A server tells where each of them is reached, by its id; whether it has to tell more.

        It has of one that is new, or elsewhere than before, and of which it does not tell the key:
        that may be another, with its own. The key of an address that is known stays: the teller may
        be behind, and tell the one before.
        """
        self.trust(
            Member(server, 0, client=address, key=keys.get(server, ""))
            for server, address in addresses.items()
            if address not in self._by_address
        )
        unknown = set(addresses.values()) - set(self._by_address) - self._asked
        self._asked |= unknown
        for server, address in addresses.items():
            if address in self._by_address:
                self._by_server.setdefault(server, self._by_address[address])
        for server, address in addresses.items():
            if server in self._by_server and len(self._by_address) < _MOST:
                self._by_address[address] = self._by_server[server]
        return bool(unknown) and len(self._asked) < _MOST

    def trust(self, members: Iterable[Member]) -> None:
        """A server, which has proved who it is, tells of the members and their keys."""
        for member in members:
            if member.key and len(self._by_address) < _MOST:
                self._by_server[member.server] = member.key
                self._by_address[member.client] = member.key


_ANSWER_SECONDS = 5.0

_MOST = 1024
"""Addresses remembered; a server may tell of any."""


def learner(
    secure: object, core: CommandCore[Any, Any], clock: Callable[[], float]
) -> Callable[[Mapping[int, str], Mapping[int, str]], None] | None:
    """A function to be told where servers are, with keys: it asks for those not told."""
    if not isinstance(secure, Keyring):
        return None

    def trust(done: Ticket[Any, Any]) -> None:
        if done.error is None:
            secure.trust(msgspec.msgpack.decode(done.value(), type=Members).members)
            core.search.ask_addresses_anew()

    def learn(addresses: Mapping[int, str], keys: Mapping[int, str]) -> None:
        if secure.learn(addresses, keys):
            question = AskMembers(secrets.randbits(62) + 1)
            end = (now := clock()) + _ANSWER_SECONDS
            ticket = core.ask(core.search.target, now=now, deadline=end, what=question)
            ticket.on_done = trust

    return learn


def secure_with(
    server_keys: Mapping[str, str] | Mapping[int, str] | Mapping[str | int, str],
    keys: CurveKeys | None = None,
) -> Secure:
    """A value for a client's `secure`, for servers that are reached with CURVE keys.

    Args:
        server_keys: the servers' public keys by client address, or by server's id. A client
            connects to nobody else, whatever a server may hint at. To a server that has moved it
            does, once another has told where that is.
        keys: the client's own pair; None makes one up, which does where servers let in any client.

    Raises `InvalidRequest` for what is no mapping and for addresses of a wrong form,
    `TransportError` for such keys and where libzmq has no CURVE.
    """
    if not isinstance(server_keys, Mapping):
        raise InvalidRequest(f"server_keys is a dict of keys by address, not {server_keys!r:.100}")
    require_curve()
    by_address: dict[str, str] = {}
    by_server: dict[int, str] = {}
    for where, key in server_keys.items():
        check_key(key)
        if isinstance(where, int):
            by_server[where] = key
        else:
            by_address |= dict.fromkeys(server_addresses(where), key)
    return Keyring(by_address, by_server, keys if keys is not None else CurveKeys.generate())
