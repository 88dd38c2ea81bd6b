"""The store's state machine by itself, and the plainest model of it."""
