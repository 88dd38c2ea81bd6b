"""Rules 13 to 15: executing the log alike everywhere, its time, and who watches it."""
