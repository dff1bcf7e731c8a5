"""OpenAI's REST API: bodies in, bodies and streams out."""
