"""The etcd v3 API: beside a real etcd, and tried by etcd's own tools (docs/etcd.md)."""
