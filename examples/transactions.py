"""Several keys at once: conditions, transactions, what was before, and a write that timed out.

python examples/transactions.py
"""

from __future__ import annotations

from paxon import Get, LocalCluster, Put, RequestTimeout, Transaction

with LocalCluster(servers=3) as cluster, cluster.client() as kv:
    # Each write is a revision of the store; a transaction is one, whatever it does.
    first = kv.put_many({"alice": "70", "bob": "30"})

    # Move money if nobody has touched the account meanwhile; else see what there is.
    done = kv.txn(
        if_=[kv.modified("alice") == first, kv.value("bob") == "30"],
        then=[Put("alice", "60"), Put("bob", "40")],
        else_=[Get("alice"), Get("bob")],
    )
    print("moved:", done.succeeded, "and both are of one revision:", done.revision == first + 1)

    # The same with any function: it is called again if somebody else was quicker.
    def pay(t: Transaction) -> int:
        """Have alice pay ten; what she has left."""
        left = int(t.get("alice") or 0) - 10
        t.put("alice", str(left))
        t.put("bob", str(int(t.get("bob") or 0) + 10))
        return left

    print("left:", kv.transact(pay))

    # The past, within the history kept: reads of one revision fit together.
    print("before:", {entry.key: entry.value for entry in kv.range(prefix="", revision=first)})
    print("now:", kv.get_many(["alice", "bob"]))

    # A write without an answer may have taken effect. `retry` asks for the very same one again,
    # and it takes effect once; `kv.increment` again would be another.
    leader = cluster.leader()
    others = [server for server in cluster.servers if server != leader]
    for server in others:
        cluster.pause(server)
    try:
        visits = kv.increment("visits", timeout=0.5)
    except RequestTimeout as error:
        print("unknown:", error.unknown)
        for server in others:
            cluster.resume(server)
        visits = error.retry(timeout=30)
    print("visits:", visits)
