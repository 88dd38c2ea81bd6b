"""What others' locks, leases, watches and elections broke at, on real servers.

`conftest` has the one cluster that all share, `clocks` the wall clock that jumps. Read
`test_cut_clients` (what befalls clients alone), `test_servers` (killed and stopped servers), then
`test_doors` (sizes and keys through every way in). docs/checks/faults.md says which case is which
test.
"""
