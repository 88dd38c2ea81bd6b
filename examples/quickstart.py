"""Start here: a cluster of three processes, some reads and writes, and a leader that dies.

python examples/quickstart.py
"""

from __future__ import annotations

import time

from paxon import LocalCluster

# Three server processes on this machine, with their data in a temporary directory. Give
# `directory="data"` to keep it.
with LocalCluster(servers=3) as cluster, cluster.client() as kv:
    # Keys are text, values are bytes; a str is encoded as UTF-8.
    kv.put("motto", "fewer dictators")
    kv.append("motto", ", more quorums")
    print("motto:", kv.get("motto"))
    print("nobody:", kv.get("nobody"))

    # Compare and set: it succeeds only for whoever knows the present value.
    print("changed:", kv.cas("owner", None, "me"), "and again:", kv.cas("owner", None, "you"))

    # Many operations in flight, with results in their order.
    with kv.pipeline() as batch:
        for number in range(1000):
            batch.put(f"square/{number:04}", str(number * number))
    print("last squares:", kv.scan("square/", limit=2, start_after="square/0997"))

    # Kill the leader. The others elect a new one, and the client finds it by itself.
    leader = cluster.leader()
    cluster.kill(leader)
    start = time.monotonic()
    kv.put("survivor", "yes")
    print(f"server {leader} was killed; the next write took {time.monotonic() - start:.2f} s")

    # Bring it back: it catches up with what it has missed.
    cluster.restart(leader)
    for row in cluster.status():
        print(f"server {row.server}: {row.reply.role if row.reply else row.state}")
