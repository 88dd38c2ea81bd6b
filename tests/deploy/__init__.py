"""What is under deploy/, and what service managers are told."""
