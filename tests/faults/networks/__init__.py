"""What stands between servers: a relay, namespaces of the kernel, address translation."""
