"""The command line, and what it shows: status, metrics, logs, doctor."""
