"""What an answer must hold of calls, and engines that cannot see to it."""

from __future__ import annotations

from mesh.engine.base import Chat, Prompt
from mesh.errors import unsupported


def refuse_call_rule(prompt: Prompt) -> None:
    """For engines without grammars for calls: raise unsupported if a chat demands more than the model gives freely."""
    if not isinstance(prompt, Chat):
        return
    if prompt.call_rule.required:
        raise unsupported("tool_choice", "'tool_choice' can be auto or none here: forced calls are not supported")
    if prompt.tools and prompt.call_rule.single:
        raise unsupported("parallel_tool_calls", "'parallel_tool_calls' cannot be false here: calls cannot be limited")
    for tool in prompt.tools:
        if tool.strict:
            raise unsupported("tools", f"'strict' of the tool '{tool.name}' cannot be kept to here: it must be false")
