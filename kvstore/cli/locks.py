"""`paxon lock` and `paxon election`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from paxon.kvstore.cli.exit_codes import FAILED, NO_SUCH_KEY, NOT_AS_EXPECTED
from paxon.kvstore.cli.store import (
    ClusterOption,
    JsonOption,
    KeyOption,
    WithAdvice,
    as_line,
    as_typed,
    fail,
    find_target,
    print_json,
    typed_bytes,
    value_as_json,
    value_of,
)
from paxon.kvstore.client.addresses import DEFAULT_CLIENTS
from paxon.kvstore.errors import LockLost, NotAcquired

if TYPE_CHECKING:
    from paxon.kvstore.recipes.clients import Client
    from paxon.kvstore.recipes.contests import Contender
    from paxon.kvstore.recipes.held import Held
    from paxon.kvstore.recipes.lock import Lock

__all__ = ["add_commands"]

_PANEL = "The store"
_REQUEST_SECONDS = 10.0
_COMMAND = "paxon.command"


class _WithCommand(WithAdvice):
    """What stands after `--` is a command of the user's own."""

    advice: ClassVar[str] = "the command to run comes after --"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            index = args.index("--")
            ctx.meta[_COMMAND] = args[index + 1 :]
            args = args[:index]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND …]"]


_WaitOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", "-t", min=0, show_default="for ever",
        help="Seconds to wait for others; 0: do not wait.",
    ),
]  # fmt: skip
_TtlOption = Annotated[
    float, typer.Option("--ttl", min=2, help="Seconds after which it is free if this process dies.")
]


def lock(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The lock's name.", callback=as_typed)
    ],
    *,
    read: Annotated[
        bool, typer.Option("--read", help="Share it with other readers; writers wait.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Hold it alone: readers (--read) wait.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="Use a semaphore that this many hold at once."),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Only show its holders and who waits.")
    ] = False,
    timeout: _WaitOption = None,
    ttl: _TtlOption = 10.0,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a command while a lock is held; without one, hold it until Ctrl-C.

    Its exit code is passed on. If the lock is lost, the command is ended (SIGTERM, then SIGKILL, to
    its process group) and the exit code is 1; it is 4 if the lock was not to be had in time. The
    command finds PAXON_LOCK_KEY and PAXON_LOCK_FENCE in its environment, to guard what it writes,
    and signals are passed on to it.

    Examples: paxon lock deploy -- make deploy | paxon lock gpu --limit 4 -t 60 -- ./train |
    paxon lock catalogue --read -- ./report | paxon lock deploy --list |
    paxon lock a -- sh -c 'paxon txn --if "created $PAXON_LOCK_KEY = $PAXON_LOCK_FENCE"
    --then "put release 7"'
    """
    if read + write + (limit is not None) > 1:
        raise typer.BadParameter("give one of --read, --write and --limit")
    command = _command(context)
    if list_ and command:
        raise typer.BadParameter("either list who holds and waits, or give a command to run")
    with _client(cluster, key_file, timeout) as kv:
        if limit is not None:
            wanted: Lock = kv.semaphore(name, limit, ttl=ttl, timeout=timeout)
        elif read or write:
            sides = kv.rwlock(name, ttl=ttl, timeout=timeout)
            wanted = sides.read if read else sides.write
        else:
            wanted = kv.lock(name, ttl=ttl, timeout=timeout)
        if list_:
            _show(wanted, as_json)
            return
        try:
            held = wanted.acquire()
        except NotAcquired as error:
            raise fail(str(error), NOT_AS_EXPECTED) from None
        with held:
            _hold(kv, held, command, _environment("LOCK", held, cluster, key_file), as_json)


def election(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The election's name.", callback=as_typed)
    ],
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="[VALUE]",
            help="The value that others see while this process leads; - reads it from stdin.",
        ),
    ] = None,
    *,
    listen: Annotated[
        bool, typer.Option("--listen", help="Print who leads, and each change, until Ctrl-C.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="With --listen: end after this many.")
    ] = None,
    timeout: _WaitOption = None,
    ttl: _TtlOption = 10.0,
    cluster: ClusterOption = DEFAULT_CLIENTS,
    key_file: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who leads; with a value, lead: run a command meanwhile, or until Ctrl-C.

    Exit code 3 if nobody leads. A command is run, and ended at the loss of the leadership, as by
    paxon lock; it finds PAXON_ELECTION_KEY and PAXON_ELECTION_FENCE in its environment.

    Examples: paxon election cron | paxon election cron --listen --json |
    paxon election cron "$(hostname)" -- ./cron-jobs | paxon election cron - < address
    """
    command = _command(context)
    if value is None and command:
        raise typer.BadParameter("give a VALUE before the command: what others see of the leader")
    if value is not None and listen:
        raise typer.BadParameter("either listen, or give a VALUE to lead with")
    if count is not None and not listen:
        raise typer.BadParameter("--count belongs to --listen")
    proposal = None if value is None else value_of(value)
    with _client(cluster, key_file, timeout) as kv:
        wanted = kv.election(name, ttl=ttl)
        if listen:
            for number, leader in enumerate(wanted.observe(), 1):
                _print_leader(leader, as_json)
                if number == count:
                    return
        if proposal is None:
            leader = wanted.leader()
            _print_leader(leader, as_json)
            if leader is None:
                raise fail(f"nobody leads {name!r}", NO_SUCH_KEY)
            return
        try:
            held = wanted.campaign(proposal, timeout=timeout)
        except NotAcquired as error:
            raise fail(str(error), NOT_AS_EXPECTED) from None
        with held:
            _hold(kv, held, command, _environment("ELECTION", held, cluster, key_file), as_json)


def _command(context: typer.Context) -> list[str] | None:
    """What stands after `--`; None without it."""
    command: list[str] | None = context.meta.get(_COMMAND)
    if command is not None and not any(command):
        raise typer.BadParameter("there is no command after --")
    return command


def _client(cluster: str, key_file: str | None, wait: float | None) -> Client:
    """A client with the recipes. One that waits only briefly gives up on dead servers as soon."""
    target = find_target(cluster, key_file)
    from paxon.kvstore.recipes.clients import Client  # noqa: PLC0415 (after the arguments)

    seconds = _REQUEST_SECONDS if wait is None else min(_REQUEST_SECONDS, max(1.0, wait))
    return Client(list(target.addresses.values()), timeout=seconds, secure=target.secure)


def _environment(what: str, held: Held, cluster: str, key_file: str | None) -> dict[str, str]:
    """What the command's environment has besides ours: its paxon talks to the same servers."""
    return {
        f"PAXON_{what}_KEY": held.key,
        f"PAXON_{what}_FENCE": str(held.fence),
        f"PAXON_{what}_LEASE": f"{held.lease.id:x}",
        "PAXON_CLUSTER": cluster,
        **({"PAXON_KEY": key_file} if key_file else {}),
    }


def _hold(
    kv: Client, held: Held, command: list[str] | None, more: Mapping[str, str], as_json: bool
) -> None:
    """Run the command while it is held; without one say so, and hold it."""
    if command is None:
        if as_json:
            key = value_as_json(typed_bytes(held.key))
            print_json({"key": key, "fence": held.fence, "lease": f"{held.lease.id:x}"})
        else:
            sys.stdout.write(f"{as_line(typed_bytes(held.key))}\t{held.fence}\n")
        sys.stdout.flush()
        _wait_for_loss(kv, held)
    from paxon.kvstore.cluster.guarded import CannotRun, run_while_held  # noqa: PLC0415 (see commands)

    assert command is not None
    try:
        ended = run_while_held(kv, held, command, more)
    except CannotRun as error:
        raise fail(str(error), error.code) from None
    if ended.lost:
        raise fail(f"{held.key} is no longer held: {ended.lost}; its command was ended", FAILED)
    raise typer.Exit(ended.code)


def _wait_for_loss(kv: Client, held: Held) -> None:
    """Return only by an exception: the loss, or a signal."""
    with kv.watch(held.key, after=held.fence, puts=False) as gone:
        while not held.lost.is_set():
            try:
                gone.next(1.0)
            except TimeoutError:
                continue
            break
    held.check()
    raise LockLost(f"{held.key} is no longer held")


def _show(wanted: Lock, as_json: bool) -> None:
    contenders = wanted.contenders()
    holders = {each.key for each in wanted._contest.holding(contenders)}
    if as_json:
        print_json([_as_json(each) | {"holds": each.key in holders} for each in contenders])
        return
    for each in contenders:
        state = "holds" if each.key in holders else "waits"
        sys.stdout.write(f"{state}\t{each.fence}\t{as_line(typed_bytes(each.key))}\n")


def _print_leader(leader: Contender | None, as_json: bool) -> None:
    if as_json:
        print_json(None if leader is None else _as_json(leader))
    else:
        line = "-" if leader is None else f"{leader.fence}\t{as_line(leader.value)}"
        sys.stdout.write(line + "\n")
    sys.stdout.flush()  # whoever reads it is to know at once


def _as_json(contender: Contender) -> dict[str, object]:
    return {
        "key": value_as_json(typed_bytes(contender.key)),
        "value": value_as_json(contender.value),
        "fence": contender.fence,
        "lease": f"{contender.lease:x}",
    }


def add_commands(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    for command in (lock, election):
        app.command(rich_help_panel=_PANEL, cls=_WithCommand)(command)
