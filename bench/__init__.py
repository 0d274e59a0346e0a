"""Benchmarks: CPU-seconds and ratios to a floor of the same run. See README.md."""
