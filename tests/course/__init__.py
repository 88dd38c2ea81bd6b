"""The course's own list of tests, as ours: by name and numbers, against real processes.

Each server is a process with its own durable disk; a relay between them makes partitions and loss
(docs/checks/faults.md). Where `make test` runs a shorter form, PAXON_SOAK=1 (`make soak`) runs the
numbers of the list.
"""
