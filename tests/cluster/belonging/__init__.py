"""Who belongs to a cluster, as what, and where: its making, members, keys, settings, addresses."""
