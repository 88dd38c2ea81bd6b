"""Bugs to plant, by subject; tests/search/planted.py has the first ones, and what they all are."""
