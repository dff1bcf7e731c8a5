"""vLLM as an engine of the mesh. It needs an environment of its own: vLLM pins torch and transformers."""
