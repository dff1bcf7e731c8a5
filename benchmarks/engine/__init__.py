"""Throughput of engines side by side, each in a process of its own, on one model with random weights."""
