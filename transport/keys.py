"""Optional encryption and authentication by CURVE keys.

Every server and, where wanted, every client has a key pair in a file of its own. Servers let only
the known servers' keys onto the peer port, and tie each server id to its key; onto the client port
any key or only known ones. Nothing of this is on unless keys are given.
"""

from __future__ import annotations

import errno
import os
import struct
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from paxon.transport.errors import TransportError

__all__ = [
    "CurveKeys",
    "CurveSecurity",
    "PeerKeys",
    "check_key",
    "read_text",
    "require_curve",
    "secure_client",
]

_KEY_CHARACTERS = 40
_MOST_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """A key pair, each key as 40 characters of Z85 text. Raises `TransportError` if not."""

    public: str
    """May be known to all; others recognise this server or client by it."""
    secret: str = field(repr=False)
    """Stays on this machine."""

    def __post_init__(self) -> None:
        check_key(self.public)
        check_key(self.secret)
        if zmq.has("curve") and zmq.curve_public(self.secret.encode()).decode() != self.public:
            raise TransportError("a public and a secret key do not belong together")

    @classmethod
    def generate(cls) -> CurveKeys:
        """A new random pair. Raises `TransportError` where libzmq has no CURVE."""
        require_curve()
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def load(cls, path: Path | str) -> CurveKeys:
        """The pair in a file. Raises `TransportError` if it is missing, wrong or open to others."""
        path = Path(path)
        try:
            mode = path.stat().st_mode
            text = read_text(path)
        except UnicodeDecodeError:
            text = ""
        except (OSError, ValueError) as error:
            raise TransportError(f"cannot read the key file {path}: {_why(error)}") from error
        if mode & 0o077:
            raise TransportError(f"the key file {path} is open to other users: chmod 600 it")
        try:
            content = tomllib.loads(text)
            return cls(content["public"], content["secret"])
        except (ValueError, RecursionError, KeyError, TransportError) as error:
            raise TransportError(
                f"the key file {path} does not hold a key pair: remove it and make a new one"
            ) from error

    @classmethod
    def load_or_generate(cls, path: Path | str) -> CurveKeys:
        """The pair in a file, which is made if it does not exist. Raises `TransportError`."""
        if Path(path).exists():
            return cls.load(path)
        keys = cls.generate()
        keys.save(path)
        return keys

    def save(self, path: Path | str) -> None:
        """Write a new file that only this user can read. Raises `TransportError` if it exists."""
        made = False
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            made = True
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f'public = "{self.public}"\nsecret = "{self.secret}"\n')
                file.flush()
                os.fsync(descriptor)
        except (OSError, ValueError) as error:
            if made:
                Path(path).unlink(missing_ok=True)  # half a pair would be in a whole one's way
            raise TransportError(f"cannot write the key file {path}: {_why(error)}") from error


@dataclass(frozen=True, slots=True)
class CurveSecurity:
    """The keys of a server's endpoint. Raises `TransportError` for keys of the wrong form."""

    keys: CurveKeys
    """This server's own."""
    peers: Mapping[int, str]
    """The other servers' public keys, by id: those known at the start."""
    clients: Collection[str] | None = None
    """Public keys of the clients that may connect; None: any client that has a key."""

    def __post_init__(self) -> None:
        for key in (*self.peers.values(), *(self.clients or ())):
            check_key(key)
        if len({self.keys.public, *self.peers.values()}) <= len(self.peers):
            raise TransportError("two servers have the same public key: give each its own")


class PeerKeys:
    """By which key each of the other servers is known now: as it was told last, else as given."""

    def __init__(self, given: Mapping[int, str]) -> None:
        self._given = dict(given)
        self._told: dict[int, str] = {}

    def tell(self, keys: Mapping[int, str]) -> None:
        """These servers have these keys from now on; of all others counts what was given."""
        self._told = {server: key for server, key in keys.items() if key}

    def of(self, server: int) -> str | None:
        """The key of a server, and no other is its own; None if none is known."""
        return self._told.get(server) or self._given.get(server)

    def all(self) -> dict[int, str]:
        """The keys of all servers of which one is known."""
        return self._given | self._told

    def knows(self, key: str) -> bool:
        """Whether any server has this key."""
        return key in self.all().values()


def read_text(path: Path) -> str:
    """What is in a file that people write. Raises `OSError` and `UnicodeDecodeError`.

    Not all of a device that never ends, or of a file that somebody named in error.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_TEXT_BYTES + 1)
    if len(content) > _MOST_TEXT_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content.decode("utf-8-sig")  # (some editors begin a file with a byte order mark)


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def secure_client(socket: zmq.Socket[bytes], keys: CurveKeys, server_public: str) -> None:
    """Make a client's socket use CURVE; call before `connect`. Raises `TransportError`."""
    require_curve()
    check_key(server_public)
    socket.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt_string(zmq.CURVE_SERVERKEY, server_public)


def secure_port(socket: zmq.Socket[bytes], keys: CurveKeys, domain: str) -> None:
    """Make a bound socket demand CURVE and ask the `KeyKeeper` about each connection."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # let nobody in should nobody answer


def require_curve() -> None:
    """Raise `TransportError` where libzmq was built without CURVE."""
    if not zmq.has("curve"):
        raise TransportError(
            "this libzmq was built without CURVE encryption: install the pyzmq wheel from PyPI, "
            "or leave the keys out"
        )


def check_key(key: object) -> None:
    """Raise `TransportError` for what is not a key in text form."""
    if not isinstance(key, str) or len(key) != _KEY_CHARACTERS:
        raise TransportError(f"a key has {_KEY_CHARACTERS} characters of Z85 text: copy it whole")
    try:
        z85.decode(key.encode("ascii"))
    except (KeyError, UnicodeEncodeError, struct.error) as error:
        raise TransportError("a key is no Z85 text: copy it whole") from error


class KeyKeeper:
    """Answers libzmq's question who may connect (ZAP, ZeroMQ RFC 27), in the endpoint's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        domains: Mapping[str, Callable[[str], bool]],
    ) -> None:
        """Args: of each ZAP domain, whether a public key is allowed now."""
        self._domains = dict(domains)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind("inproc://zeromq.zap.01")

    def drain(self) -> None:
        """Answer all that was asked."""
        while self.socket.poll(0):
            version, request, domain, _, _, mechanism, *credentials = self.socket.recv_multipart()
            name = self._name(domain.decode(), mechanism, credentials)
            verdict = (b"400", b"unknown key", b"") if name is None else (b"200", b"", name)
            self.socket.send_multipart([version, request, *verdict, b""])

    def _name(self, domain: str, mechanism: bytes, credentials: list[bytes]) -> bytes | None:
        """The key, by which its owner is known from then on; None if it may not connect."""
        if mechanism != b"CURVE" or len(credentials) != 1 or domain not in self._domains:
            return None
        key: bytes = z85.encode(credentials[0])
        return key if self._domains[domain](key.decode()) else None

    def close(self) -> None:
        """Stop answering: from now on nobody can connect."""
        self.socket.close(0)
