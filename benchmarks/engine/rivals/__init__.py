"""Engines that need an environment of their own, as child processes: one JSON object a line in each direction."""
