"""Encrypted connections of clients: docs/keys.md."""

from __future__ import annotations

from collections.abc import Mapping

import zmq

from paxon.kvstore.client.links import Secure, server_addresses
from paxon.transport import CurveKeys, check_key, require_curve, secure_client

__all__ = ["secure_with"]


def secure_with(server_keys: Mapping[str, str], keys: CurveKeys | None = None) -> Secure:
    """What a client takes as `secure`, for servers that are reached with CURVE keys.

    Args:
        server_keys: the servers' public keys by client address. A client connects to no other
            address, whatever a server may hint at.
        keys: the client's own pair; None makes one up, which does where servers let in any client.

    Raises `InvalidRequest` for addresses of a wrong form, `TransportError` for such keys and where
    libzmq has no CURVE.
    """
    require_curve()
    own = keys if keys is not None else CurveKeys.generate()
    known: dict[str, str] = {}
    for addresses, key in server_keys.items():
        check_key(key)
        known |= dict.fromkeys(server_addresses(addresses), key)

    def secure(socket: zmq.Socket[bytes], address: str) -> None:
        if address not in known:
            raise ValueError("no public key is known for this address")
        secure_client(socket, own, known[address])

    return secure
