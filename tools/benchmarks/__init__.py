"""Patching sweeps, timed against other libraries: `python -m tools.benchmarks.sweeps`."""
