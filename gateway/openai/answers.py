"""Answer bodies of the OpenAI API, their keys in OpenAI's order."""

from __future__ import annotations

import msgspec


class TopLogprob(msgspec.Struct):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct):
    """A token of the answer with its log probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct):
    """Log probabilities of an answer's or a chunk's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct):
    """A token at one place of the prompt, as vLLM reports it."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""Of each token of a prompt, by token id; the first has none."""


class PromptTokensDetails(msgspec.Struct):
    """Of the prompt's tokens, those that came from the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct):
    """Of the answer's tokens, those of the reasoning and its marks."""

    reasoning_tokens: int


class Usage(msgspec.Struct, kw_only=True):
    """Token counts; completion tokens are those of all choices. The details of these are of chats alone."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | msgspec.UnsetType = msgspec.UNSET


class CalledFunction(msgspec.Struct):
    """The function of a call, with its arguments as JSON text."""

    name: str
    arguments: str


class AnswerCall(msgspec.Struct, kw_only=True):
    """A call of a tool."""

    id: str
    type: str = "function"
    function: CalledFunction


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The assistant's message. Its reasoning goes by two names, of which clients know one or the other."""

    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[AnswerCall] | msgspec.UnsetType = msgspec.UNSET
    function_call: CalledFunction | msgspec.UnsetType = msgspec.UNSET  # instead, if the request had `functions`


class Choice(msgspec.Struct):
    """One completion."""

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: str
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatAnswer(msgspec.Struct, kw_only=True):
    """Body of a chat answer that is not streamed."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class DeltaFunction(msgspec.Struct, kw_only=True):
    """A part of a call's function: its name in the first one, and then its arguments bit by bit."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str


class DeltaCall(msgspec.Struct, kw_only=True):
    """A part of a call; the first one has its id."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: str | msgspec.UnsetType = msgspec.UNSET
    function: DeltaFunction


class Delta(msgspec.Struct, kw_only=True):
    """What a chunk adds to the message. The first one of each choice has the role, the last one nothing."""

    role: str | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType | None = msgspec.UNSET
    refusal: msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[DeltaCall] | msgspec.UnsetType = msgspec.UNSET
    function_call: DeltaFunction | msgspec.UnsetType = msgspec.UNSET


class ChunkChoice(msgspec.Struct):
    """A choice in a chunk."""

    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: str | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(msgspec.Struct, kw_only=True):
    """Data of one event of a streamed chat. `gateway.openai.sse` writes it by hand; the tests read it by this type."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class TextLogprobs(msgspec.Struct):
    """Log probabilities of a completion's or a chunk's tokens: four lists of the same length. The first token of an
    echoed prompt has none."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []


class TextChoice(msgspec.Struct):
    """One completion of a text."""

    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: str
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class CompletionAnswer(msgspec.Struct, kw_only=True):
    """Body of a text completion that is not streamed."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(msgspec.Struct):
    """A choice in a chunk."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class TextChunk(msgspec.Struct, kw_only=True):
    """Data of one event of a streamed text completion."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class Model(msgspec.Struct):
    """A served model. `context_length` counts tokens of prompt and answer together, null if nobody knows; OpenAI has no
    such field, and vLLM calls it `max_model_len`. The `parent` of an adapter is the model that it changes, which is the
    `root` of both. `capabilities` say what it can be asked for, as workers announce them: chat, vision, embed and more.
    The `root` of an alias is the model that it stands for. `adapters` and `aliases` are those of this model, by name.
    """

    id: str
    created: int
    context_length: int | None
    max_model_len: int | None
    root: str
    parent: str | None
    capabilities: list[str]
    adapters: list[str]
    aliases: list[str]
    object: str = "model"
    owned_by: str = "inference-mesh"


class ModelList(msgspec.Struct):
    """All served models."""

    data: list[Model]
    object: str = "list"
