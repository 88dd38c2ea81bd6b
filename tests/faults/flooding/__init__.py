"""Clients that ask for too much, and what they leave the others."""
