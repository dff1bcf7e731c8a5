"""Request bodies of the tokenizer's routes, which are vLLM's."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.openai.chat_schema import ChatRequest, check
from gateway.openai.inputs import check_inputs
from gateway.openai.messages import ChatMessage
from gateway.openai.schema import decode
from gateway.openai.tools import Tool
from gateway.openai.translate import to_generate
from mesh.errors import invalid, unsupported
from mesh.v1 import inference_pb2 as pb


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /tokenize: either a prompt or a conversation, as the routes that generate take them."""

    model: str
    prompt: str | None = None
    messages: list[ChatMessage] | None = None

    # With a prompt: whether the tokenizer's special tokens go with it (by default). Templates write their own.
    add_special_tokens: bool | None = None

    # With messages.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None

    # Known to the API, not served: refused unless null or false.
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /detokenize."""

    model: str
    tokens: list[int]


_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)
# What presents a conversation, and is nothing to a prompt.
_OF_MESSAGES = ("add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs", "tools")


def parse_tokenize(body: bytes) -> pb.TokenizeRequest:
    """The wire's request. Raises MeshError (invalid_request, unsupported) naming the field."""
    request = decode(_tokenize, body)
    if request.return_token_strs:
        raise unsupported("return_token_strs", "'return_token_strs' must be false: tokens are told by their ids")
    if request.messages is not None:
        return _conversation(request, request.messages)
    if request.prompt is None:
        raise invalid("prompt", "either 'prompt' or 'messages' is required")
    for name in _OF_MESSAGES:
        if getattr(request, name) is not None:
            raise invalid(name, f"'{name}' needs 'messages'")
    return pb.TokenizeRequest(model=request.model, text=request.prompt, add_special_tokens=request.add_special_tokens)


def _conversation(request: TokenizeRequest, messages: list[ChatMessage]) -> pb.TokenizeRequest:
    """What a chat of these messages would begin with."""
    if request.prompt is not None:
        raise invalid("messages", "'messages' excludes 'prompt'")
    if request.add_special_tokens:
        raise unsupported("add_special_tokens", "'add_special_tokens' needs 'prompt': chat templates write their own")
    shown = {name: getattr(request, name) for name in _OF_MESSAGES}
    chat = ChatRequest(model=request.model, messages=messages, **shown)
    check(chat)
    if chat.has_images:
        raise unsupported("messages", "'messages' holds an image, of which only a model knows the tokens")
    return pb.TokenizeRequest(model=request.model, chat=to_generate(chat, "").chat)


def parse_detokenize(body: bytes) -> pb.DetokenizeRequest:
    """The wire's request. Raises MeshError (invalid_request) naming the field."""
    request = decode(_detokenize, body)
    check_inputs("tokens", [request.tokens])
    return pb.DetokenizeRequest(model=request.model, token_ids=request.tokens, keep_special_tokens=True)
