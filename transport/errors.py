"""What can go wrong on the wire; every text is one sentence for people."""

from __future__ import annotations

__all__ = ["TransportError", "FrameError", "MalformedFrame", "ForeignFrame", "OversizedFrame"]


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
