"""Throughput of engines side by side in one process, on one model with random weights."""
