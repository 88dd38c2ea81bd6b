"""Real server processes: local clusters, the command line, faults."""
