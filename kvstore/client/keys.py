"""Encrypted connections of clients: docs/keys.md."""

from __future__ import annotations

from collections.abc import Mapping

import zmq

from paxon.kvstore.client.links import Secure, server_addresses
from paxon.transport import CurveKeys, check_key, require_curve, secure_client

__all__ = ["Keyring", "secure_with"]


class Keyring:
    """The servers' keys, each bound to a server and not to where it is reached.

    It is what a client takes as `secure`. Where servers are by now, a server tells that has proved
    who it is; whoever answers there has to prove the same.
    """

    def __init__(
        self, by_address: Mapping[str, str], by_server: Mapping[int, str], own: CurveKeys
    ) -> None:
        self._by_address = dict(by_address)
        self._by_server = dict(by_server)
        self._own = own

    def __call__(self, socket: zmq.Socket[bytes], address: str) -> None:
        """Prepare a socket. Raises ValueError for an address of nobody known."""
        if address not in self._by_address:
            raise ValueError("no public key is known for this address")
        secure_client(socket, self._own, self._by_address[address])

    def learn(self, addresses: Mapping[int, str]) -> None:
        """A server tells where each of them is reached, by its id."""
        for server, address in addresses.items():
            if address in self._by_address:
                self._by_server.setdefault(server, self._by_address[address])
        for server, address in addresses.items():
            if server in self._by_server and len(self._by_address) < _MOST:
                self._by_address[address] = self._by_server[server]


_MOST = 1024
"""Addresses remembered; a server may tell of any."""


def secure_with(
    server_keys: Mapping[str, str] | Mapping[int, str] | Mapping[str | int, str],
    keys: CurveKeys | None = None,
) -> Secure:
    """What a client takes as `secure`, for servers that are reached with CURVE keys.

    Args:
        server_keys: the servers' public keys by client address, or by server's id. A client
            connects to nobody else, whatever a server may hint at. To a server that has moved it
            does, once another has told where that is.
        keys: the client's own pair; None makes one up, which does where servers let in any client.

    Raises `InvalidRequest` for addresses of a wrong form, `TransportError` for such keys and where
    libzmq has no CURVE.
    """
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
