"""A recorded cluster: `python -m tests.powercuts.cluster_child DIRECTORY WRITES`.

Three real server processes, clients that write, the leader stopped on the way and started later
(in order: of what a SIGKILL interrupts, the record may be missing). Each write is marked
in the log once its client has been told that it is done.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from paxon.kvstore import Client, LocalCluster
from tests.powercuts.recorder import mark, open_log

__all__ = ["SETTINGS", "main"]

CLIENTS = 3
SETTINGS = {"snapshot_slots": 25, "retain_slots": 10, "transfer_bytes": 2000}
"""Of the servers: snapshots are taken, and sent to whoever was away, within a few writes."""


def write(client: Client, number: int, writes: int, log: int, failures: list[str]) -> None:
    """Write keys of one's own, one after the other."""
    try:
        for count in range(writes):
            key, value = f"key/{number}/{count}", f"<{number}.{count}>" * 20
            client.put(key, value)
            mark(log, json.dumps({"key": key, "value": value}))
    except Exception as error:
        failures.append(repr(error))


def main() -> None:
    directory, writes = Path(sys.argv[1]), int(sys.argv[2])
    log = open_log()
    failures: list[str] = []
    with (
        LocalCluster(3, directory=directory, **SETTINGS) as cluster,  # type: ignore[arg-type] # a dict of settings
        cluster.client(timeout=60) as client,
    ):
        for without in (True, False):
            threads = [
                threading.Thread(
                    target=write, args=(client, 2 * number + without, writes, log, failures)
                )
                for number in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            leader = cluster.leader()
            if without:
                cluster.stop_server(leader)
            for thread in threads:
                thread.join()
            if without:
                cluster.restart(leader)
    if failures:
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()
