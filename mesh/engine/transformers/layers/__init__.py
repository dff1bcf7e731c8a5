"""Faster ways to compute a model's layers, each checked against the plain one."""
