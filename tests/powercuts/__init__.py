"""Power cuts: record a process's calls to its files, rebuild every disk that a cut could leave."""
