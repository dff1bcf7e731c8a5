"""Pictures in prompts: read, laid out in tokens, and seen by the model."""
