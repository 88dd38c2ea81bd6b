"""Runs about one subject: what is drawn for them, what is checked, and bugs planted for them."""
