"""What a `LocalCluster` needs of this machine: directories, lent ones too, an importable class."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from paxon.actors import ServerId, StateMachine
from paxon.actors.ballot import MOST_SERVERS, in_list
from paxon.actors.disk.data_directory import in_words, make_directory, owner_of
from paxon.actors.disk.sqlite_format import held_in
from paxon.kvstore.cluster.cluster_file import STORE_MACHINE
from paxon.kvstore.cluster.options import check_limits
from paxon.kvstore.cluster.spawning import being_imported_by_spawn, end_unguarded_server
from paxon.kvstore.errors import PaxonError
from paxon.kvstore.objects.replicated import Replicated
from paxon.transport import closed_here, keep_from_forks
from paxon.transport.log import logger

__all__ = [
    "ClusterError",
    "ClusterOptionError",
    "PortTaken",
    "check_arguments",
    "cluster_directory",
    "held_alone",
    "machine_name",
    "members_in",
    "name_in",
    "refuse_while_imported",
    "remove",
    "socket_directory",
    "usable_path",
]

_LONGEST_TMPDIR = 80
"""Bytes. In a deeper one a Unix socket finds no room, so that it goes to …"""
_TMPDIR = "/tmp"
"""… this."""


class ClusterError(PaxonError):
    """A local cluster cannot do what was asked; the text is one sentence for people."""


class ClusterOptionError(ClusterError):
    """An argument or option makes no sense, whatever the state of the machine."""


class PortTaken(ClusterError):
    """Somebody took a port between our drawing it and a server's binding it."""


def refuse_while_imported() -> None:
    """Raise `ClusterError` where spawn imports a main script that starts a cluster."""
    if being_imported_by_spawn():
        end_unguarded_server()
        raise ClusterError(
            "a process that this program spawned imports the main script, which starts a cluster: "
            'put what starts it under `if __name__ == "__main__":`'
        )


def cluster_directory(given: Path | None, temporary: list[Path]) -> Path:
    """The cluster's directory, made if need be; noted in `temporary` if it is.

    This is where starting begins: what a server imports may describe a cluster, and start none.
    """
    end_unguarded_server()
    directory = _temporary("paxon-cluster-", temporary) if given is None else given
    try:
        make_directory(directory)
    except OSError as error:
        raise ClusterError(f"the directory {directory} cannot be used: {in_words(error)}") from None
    return directory


def held_alone(directory: Path) -> ExitStack:
    """Keep other programs from running or making a cluster here, until this is closed.

    Each could make some servers' directories, of two clusters. Raises `ClusterError`.
    """
    stack = ExitStack()
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ClusterError(f"the directory {directory} cannot be used: {in_words(error)}") from None
    stack.callback(os.close, descriptor)
    stack.callback(closed_here, descriptor)
    keep_from_forks(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stack.close()
        raise ClusterError(
            f"the directory {directory} is in use by a live process, which runs or makes a cluster "
            "there: stop that one first, or give another directory"
        ) from None
    except OSError:
        pass  # no file system for locks: servers' directories have their own
    return stack


def members_in(directory: Path, wanted: list[ServerId]) -> list[ServerId]:
    """The servers that the data directories name as members; those asked for if there are none.

    Members come from there and from nowhere else (docs/design/making-a-cluster.md).
    """
    held = [held_in(path) for path in sorted(directory.glob("server-*"))]
    known = [each.configuration for each in held if each is not None]
    if not known:
        return wanted
    members = list(max(known, key=lambda configuration: configuration.epoch).servers)
    if len(members) != len(wanted):
        logger.warning(
            "servers = {}, but the cluster in {} has {} members: {} are started",
            len(wanted), directory, len(members), in_list(members),
        )  # fmt: skip
    return members


def name_in(directory: Path) -> str:
    """The cluster's name in the data directories, as after restoring; "" if there are none."""
    owners = map(owner_of, sorted(directory.glob("server-*")))
    return next((owner.cluster for owner in owners if owner.cluster), "")


def socket_directory(temporary: list[Path]) -> Path:
    """A temporary directory for Unix sockets.

    The limit on the path of a Unix socket is tight, and the cluster's directory may be deep.
    """
    short = len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TMPDIR
    return _temporary("paxon-", temporary, where=None if short else _TMPDIR)


def _temporary(prefix: str, temporary: list[Path], where: str | None = None) -> Path:
    """A new temporary directory, noted in `temporary`. Raises `ClusterError`."""
    try:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    except OSError as error:
        raise ClusterError(
            f"no temporary directory can be made: {error.strerror} (TMPDIR says where; "
            "a directory of your own does as well)"
        ) from None
    temporary.append(path)
    return usable_path(path)


def usable_path(directory: object) -> Path:
    """An absolute path whose name can be written down. Raises `ClusterOptionError`."""
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        raise ClusterOptionError(f"directory = {directory!r}: must be a name, as text or a Path")
    try:
        path = Path(directory).absolute()
        str(path).encode("utf-8")
        if "\0" in str(path):
            raise ValueError("a null character is in its name")
    except UnicodeEncodeError:
        name = os.fsencode(path)
        why = "has a name that is not UTF-8, which the cluster file cannot hold: use another"
        with contextlib.suppress(UnicodeDecodeError):
            name.decode("utf-8")
            why = "needs a UTF-8 locale, in which this program does not run: LC_ALL=C.UTF-8 is one"
        raise ClusterOptionError(f"the directory {name!r} {why}") from None
    except FileNotFoundError:
        raise ClusterOptionError(
            f"the directory {str(directory)!r} cannot be used: the working directory is deleted, "
            "so change to one that exists"
        ) from None
    except (TypeError, ValueError, OSError) as error:  # bytes; a null; a working directory gone
        raise ClusterOptionError(
            f"the directory {str(directory)!r} cannot be used: {error}"
        ) from None
    return path


def machine_name(machine: type[StateMachine | Replicated] | None) -> tuple[str, bool]:
    """A state machine's class as module:class, and whether servers must import the main script."""
    if machine is None:
        return STORE_MACHINE, False
    if not (isinstance(machine, type) and issubclass(machine, StateMachine | Replicated)):
        one = isinstance(machine, StateMachine | Replicated)
        hint = f": give the class, {type(machine).__name__}" * one
        raise ClusterOptionError(
            f"machine = {machine!r}: must be a subclass of paxon.StateMachine or "
            f"paxon.Replicated{hint}"
        )
    if issubclass(machine, StateMachine) and (wrong := check_limits(machine)):
        raise ClusterOptionError(f"machine: {wrong}")
    if "<locals>" in machine.__qualname__:
        raise ClusterError(
            f"machine = {machine.__qualname__}: a class made inside a function cannot be imported "
            "by the servers; define it at the top of a module"
        )
    if machine.__module__ == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None and spec.name.endswith(".__main__"):  # python -m PACKAGE
            return f"{spec.name}:{machine.__qualname__}", False
        if spec is not None and spec.name == "__main__":  # of a directory or an archive
            raise ClusterError(
                f"machine = {machine.__qualname__}: a class in a __main__.py cannot be imported by "
                "the servers; put it into a module beside it"
            )
        if spec is None and not Path(getattr(main, "__file__", None) or "<stdin>").exists():
            raise ClusterError(
                f"machine = {machine.__qualname__}: a class typed at a prompt cannot be imported "
                "by the servers; put it into a module"
            )
        return f"__mp_main__:{machine.__qualname__}", True
    return f"{machine.__module__}:{machine.__qualname__}", False


def remove(paths: Sequence[Path]) -> None:
    """Remove these directories, as far as they exist."""
    try:
        for path in paths:
            _remove_tree(path)
    finally:
        for path in paths:  # gone already, unless Ctrl-C came meanwhile
            _remove_tree(path)


def _remove_tree(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def check_arguments(servers: object, port: int | None, metrics: object, keys: object) -> None:
    """Raise `ClusterOptionError` for what is of a wrong type or size."""
    if type(servers) is not int or not 1 <= servers <= MOST_SERVERS:
        raise ClusterOptionError(
            f"servers = {servers!r}: must be a number of servers, from 1 to {MOST_SERVERS}"
        )
    if type(keys) is not bool:
        raise ClusterOptionError(f"keys = {keys!r}: must be True or False")
    for name, number in (("port", port), ("metrics", metrics)):
        if number is not None and type(number) is not int:
            raise ClusterOptionError(f"{name} = {number!r}: must be a number, or None")
    if port is not None and port < 1:
        raise ClusterOptionError(f"port = {port}: must be above 0, or None for free ports")
