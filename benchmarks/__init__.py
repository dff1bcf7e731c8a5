"""Measurements: every figure is a ratio side by side in one run, kept with commit, machine and options."""
