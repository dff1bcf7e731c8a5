"""Training: the recipe of the demonstration model, and later the tools that tune other models."""
