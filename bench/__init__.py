"""Workloads, runners, plots and baselines."""
