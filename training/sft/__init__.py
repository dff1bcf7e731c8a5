"""Supervised fine-tuning: conversations in, a model or an adapter out."""
