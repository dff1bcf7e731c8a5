"""An engine whose model runs elsewhere, behind a provider's HTTP API: OpenAI-compatible, Anthropic or Google."""
