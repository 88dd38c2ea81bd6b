"""What can go wrong on the wire; every text is one sentence for people."""

from __future__ import annotations

__all__ = [
    "TransportError",
    "FrameError",
    "MalformedFrame",
    "ForeignFrame",
    "ForeignCluster",
    "OtherVersion",
    "OversizedFrame",
    "cluster_name",
]


class TransportError(Exception):
    """An address, a key file or an option cannot be used; the text says which and what to do."""


class FrameError(Exception):
    """A received frame is refused (or one to be sent cannot be); it is dropped and counted."""


class MalformedFrame(FrameError):
    """Not a frame of ours, or a damaged one: too short, random bytes, unknown or wrong fields."""


class OversizedFrame(FrameError):
    """Larger than `max_frame_bytes`."""


class ForeignFrame(FrameError):
    """A proper frame that is not for us: of another version, cluster, setting or sender."""


class OtherVersion(ForeignFrame):
    """A frame of a release that speaks another version of the protocol."""


class ForeignCluster(ForeignFrame):
    """A frame of another cluster than ours, or of a server that belongs to none yet."""

    def __init__(self, who: str, identity: int, ours: int) -> None:
        super().__init__(
            f"{who} belongs to {cluster_name(identity)}, and this is {cluster_name(ours)}: correct "
            "the address that it calls, or give it its own data directory"
        )
        self.identity = identity
        """The cluster that the frame names; 0: none."""


def cluster_name(identity: int, name: str = "") -> str:
    """A cluster in words: its name, if known, and its identity in hexadecimal digits."""
    if not identity:
        return "no cluster yet"
    return f"cluster {name!r} ({identity:016x})" if name else f"cluster {identity:016x}"
