"""Embeddings, computed between the steps of generation."""
