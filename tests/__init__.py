"""Paxon's tests, importable from the repository's root so that they can share their tools."""
