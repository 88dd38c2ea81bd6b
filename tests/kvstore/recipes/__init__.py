"""Locks, elections, queues and barriers, on a cluster in memory."""
