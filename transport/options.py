"""Tunables of a `ZmqEndpoint`; the defaults were chosen by measurement on loopback."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EndpointOptions"]


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Limits and times of an endpoint's sockets. Times are seconds, sizes are bytes."""

    burst_frames: int = 512
    """Frames that one burst takes from each of the two ports at most."""
    client_burst_frames: int = 32
    """Once one client has given so many frames, the burst takes no more from clients: they come
    from all in turns, so each that had any has given as many."""
    client_burst_messages: int = 2048
    """The same for the messages in the frames of all clients together."""
    client_frame_messages: int = 4096
    """A client's frame with more messages is refused before it is decoded."""
    peer_frame_messages: int = 65_536
    """The same for servers."""
    burst_bytes: int = 8 << 20
    """Once a port has given this many bytes, the burst takes no more from it."""
    most_servers: int = 63
    """Servers' ids go up to this: frames of others are refused."""
    peer_queue_frames: int = 512
    """Frames that may wait for a slow server before what follows is dropped; and as many at the
    receiver. (Each carries all that one burst had for that server.)"""
    client_queue_frames: int = 128
    """Replies that may wait for a slow client."""
    client_intake_frames: int = 16
    """Frames of one client that are read from the network ahead of the server."""
    large_frame_bytes: int = 256 << 10
    """Frames from this size on are handed to ZeroMQ without copying, and counted in bytes …"""
    large_queue_bytes: int = 64 << 20
    """… so many of which may wait for one slow receiver. (A single larger frame goes alone.)"""
    client_large_frame_bytes: int = 16 << 10
    client_large_queue_bytes: int = 16 << 20
    """The same for clients, …"""
    clients_queue_bytes: int = 256 << 20
    """… and for all of them together."""
    linger: float = 0.2
    """`close` waits this long for the last replies to leave."""
    reconnect_first: float = 0.02
    """First pause before a lost server is called again; doubles up to …"""
    reconnect_max: float = 0.2
    """… this."""
    connect_timeout: float = 0.5
    """A TCP connection attempt that hears nothing for this long starts afresh (a healed partition
    is noticed by a new attempt, not by the kernel's ever longer retransmissions)."""
    handshake_timeout: float = 3.0
    """A connection that does not speak ZeroMQ's protocol within this time is closed."""
    vanished_after: float = 2.0
    """A server whose machine answers nothing for this long has vanished: its connection ends …"""
    client_vanished_after: float = 30.0
    """… and a client's after this long. (A process that is stopped is not meant: its machine still
    answers, until what was sent to it fills its buffers for this long.)"""
