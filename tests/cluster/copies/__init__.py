"""Copies of what disks hold: backups, old directories put back, what one disk is enough for."""
