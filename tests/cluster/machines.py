"""State machines with something wrong about them, for servers in processes of their own."""

from __future__ import annotations

from pathlib import Path

from paxon.actors import StateMachine

__all__ = ["Recursing", "Moody", "Unrestorable", "Fragile"]


class Recursing(StateMachine):
    """A command says how many calls to nest; the state is what could be nested so far."""

    def __init__(self) -> None:
        self.done: list[bytes] = []

    def apply(self, command: bytes) -> bytes:
        if command == b"none":
            return None  # type: ignore[return-value]
        reply = b"%d" % self._nest(int(command))
        self.done.append(reply)
        return reply

    def _nest(self, calls: int) -> int:
        return 1 if calls <= 1 else 1 + self._nest(calls - 1)

    def snapshot(self) -> bytes:
        return b" ".join(self.done)

    def restore(self, snapshot: bytes) -> None:
        self.done = snapshot.split()

    def digest(self) -> str:
        return b" ".join(self.done).decode()


class Moody(StateMachine):
    """Not deterministic: a server in whose directory's parent lies a file `odd` + its directory's
    name replies otherwise, which it finds out by what file its process has open.
    """

    def apply(self, command: bytes) -> bytes:
        return command + (b"!" if _marked() else b"")

    def snapshot(self) -> bytes:
        return b"moody"

    def restore(self, snapshot: bytes) -> None:
        pass


def _marked() -> bool:
    """Whether the data directory of this very server has a file `odd`."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = entry.readlink()
        except OSError:
            continue
        if target.name == "paxon.db":
            return (target.parent / "odd").exists()
    return False


class Unrestorable(StateMachine):
    """Takes snapshots that it cannot restore."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, command: bytes) -> bytes:
        self.total += int(command)
        return b"%d" % self.total

    def snapshot(self) -> bytes:
        return b"total: %d" % self.total

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


class Fragile(StateMachine):
    """Counts; its methods that only ask fail in many ways."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, command: bytes) -> bytes:
        self.count += 1
        return bytes(40_000_000) if command == b"large" else b"%d" % self.count

    def query(self, query: bytes) -> bytes:
        return bytes(40_000_000)

    def check(self, command: bytes) -> None:
        if command == b"check: memory":
            raise MemoryError
        if command == b"check: exit":
            raise SystemExit(3)

    def cost(self, command: bytes) -> int:
        if command == b"cost: none":
            return None  # type: ignore[return-value]
        if command == b"cost: raises":
            raise ValueError("priceless")
        return len(command)

    def digest(self) -> str:
        raise ValueError("no digest")

    def snapshot(self) -> bytes:
        return b"%d" % self.count

    def restore(self, snapshot: bytes) -> None:
        self.count = int(snapshot)
