"""The default engine: batches of any requests on unmodified transformers models."""
