"""Anthropic's Messages API, over the same generations, tools and dialects as OpenAI's."""
