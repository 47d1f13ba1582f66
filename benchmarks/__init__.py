"""Patching sweeps, timed against other libraries: `python -m benchmarks.sweeps`."""
