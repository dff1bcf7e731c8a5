"""The engine on one GPU beside transformers, numerics first."""
