"""Rules 11 and 12: who is a member, by which directory, and how that changes."""
