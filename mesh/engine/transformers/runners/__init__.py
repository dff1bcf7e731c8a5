"""What computes a step: all rows packed into one forward, or row by row where a model's layers do not allow it."""
