"""The store and its clients, without server processes."""
