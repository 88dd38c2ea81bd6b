"""The benches: their arithmetic, their reports, and short runs of each for their structure."""
