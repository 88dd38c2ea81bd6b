"""Others' software in front of Paxon: etcdctl, Patroni, tooz, the suites of Python's clients."""
