"""The linearizable key-value store: state machine, clients, local clusters, command line."""
