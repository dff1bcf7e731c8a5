"""The interface of every engine, free of wire types: what goes in (Request) and what comes out (Step).

An engine runs any number of requests at once. It reports through one listener, called on the event loop's thread
once per engine step with the events of all requests, so that the layer above can send one message per step.

Life of a request: `submit` (raises MeshError before any event) -> Started -> Delta* and one ChoiceFinished per choice
-> Finished, or Failed at any moment. After `cancel(key)` returns, no event of that key is reported any more.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from mesh.dialects import UNKNOWN, Dialect
from mesh.errors import MeshError, unsupported


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture."""

    data: bytes
    media_type: str
    detail: str = "auto"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `parts` is None for a null content."""

    role: str
    parts: tuple[str | Image, ...] | None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class CallRule:
    """What an answer must hold of calls: at least one if `required`, at most one if `single`, and if `name` is given no
    call of another tool."""

    required: bool = False
    single: bool = False
    name: str | None = None


ANY_CALLS = CallRule()


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to be rendered by the model's chat template (or by `chat_template`, jinja text).

    A template that does not read one of `template_arguments` refuses it; of `template_hints` it takes what it reads.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    call_rule: CallRule = ANY_CALLS
    reasoning_effort: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    template_hints: Mapping[str, Any] = field(default_factory=dict[str, Any])
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None

    @property
    def has_images(self) -> bool:
        """Whether it shows pictures."""
        return any(isinstance(part, Image) for message in self.messages for part in message.parts or ())


@dataclass(frozen=True, slots=True)
class Text:
    """Raw text, tokenized with special tokens added."""

    text: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids, used as they are."""

    ids: tuple[int, ...]


Prompt = Chat | Text | Tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when a choice ends. Units, ranges and defaults: SamplingOptions in inference.proto.

    `seed` is never None here: whoever builds the object draws one, so that a request can be resumed exactly.
    `drawn_seed` says that nobody asked for it: an engine that takes no seed may leave it out. `kept_tokens` are special
    tokens whose text is kept although `keep_special_tokens` is off.
    """

    seed: int
    drawn_seed: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    best_of: int | None = None
    keep_special_tokens: bool = False
    kept_tokens: tuple[str, ...] = ()
    include_stop: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What to report besides text and token ids; None means not at all, 0 the chosen token only.

    `prompt_logprobs` is not reported once more of a request that is resumed.
    """

    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    prompt_token_ids: bool = False
    prompt_end: bool = False


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar for the output. `value`: schema JSON, regex, Lark grammar (of `tools` too), or the tuple of choices.

    `reasoned`: the model may reason first, in its own way; `around` is then the Lark grammar of the whole output, with
    `@answer` for what this says, once an engine has found it out.
    """

    kind: Literal["json_object", "json_schema", "regex", "grammar", "choice", "tools"]
    value: str | tuple[str, ...] = ""
    reasoned: bool = False
    around: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What an earlier attempt produced for one choice."""

    token_ids: tuple[int, ...]
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One request for `sampling.n` completions of one prompt.

    `key` identifies it towards the engine and is never used twice. `credit` is the number of tokens over all choices
    that may be reported before `grant` allows more; None is no limit. `resume` maps a choice to its progress.
    `deadline` is a time of time.monotonic(). `model` is the base model where `adapter` names one of its adapters.
    """

    key: int
    request_id: str
    model: str
    prompt: Prompt
    sampling: Sampling
    output: Output = Output()
    constraint: Constraint | None = None
    resume: Mapping[int, Progress] = field(default_factory=dict[int, Progress])
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    adapter: str | None = None
    credit: int | None = None
    deadline: float | None = None


class FinishReason(Enum):
    """Why a choice ended."""

    STOP = 1
    LENGTH = 2


@dataclass(slots=True)
class TopLogprob:
    """A likely token at one place."""

    token_id: int
    logprob: float
    token: bytes


@dataclass(slots=True)
class TokenLogprob:
    """A token's natural log probability under the model's own distribution, and the likeliest alternatives."""

    token_id: int
    logprob: float
    token: bytes
    top: list[TopLogprob]


@dataclass(slots=True)
class Started:
    """The request was accepted; counts in tokens. Sent with or before the first Delta.

    `text_only`: no Delta has token ids, each takes one token of credit, and the counts may be 0 until Finished.
    `prompt_logprobs` has an entry for each token if they were asked for; the first, which nothing precedes, has 0.
    `prompt_end` is the text of the prompt's last tokens, special ones included, if it was asked for.
    """

    key: int
    prompt_tokens: int
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    prompt_token_ids: Sequence[int] = ()
    text_only: bool = False
    prompt_end: str | None = None


@dataclass(slots=True)
class Delta:
    """New tokens of one choice and the text they release; tokens of an earlier attempt are never repeated.

    `position`: tokens of the choice before these, those of earlier attempts included; None without token ids.
    """

    key: int
    choice: int
    token_ids: Sequence[int]
    text: str
    logprobs: list[TokenLogprob] | None = None
    position: int | None = None


@dataclass(slots=True)
class ChoiceFinished:
    """One choice has ended, with `tokens` in all; None if its answer has no token ids."""

    key: int
    choice: int
    reason: FinishReason
    stop_string: str | None = None
    stop_token_id: int | None = None
    tokens: int | None = None


@dataclass(slots=True)
class Finished:
    """All choices have ended. Token counts cover the whole request, resumed tokens included; times are seconds."""

    key: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    queue_time: float = 0.0
    prefill_time: float = 0.0
    decode_time: float = 0.0


@dataclass(slots=True)
class Failed:
    """The request broke after it was accepted."""

    key: int
    error: MeshError


Event = Started | Delta | ChoiceFinished | Finished | Failed


@dataclass(slots=True)
class Load:
    """How busy the engine is: rows are choices, tokens are counts. See WorkerLoad in inference.proto."""

    running: int = 0
    waiting: int = 0
    paused: int = 0
    slots: int = 0
    running_tokens: int = 0
    pending_tokens: int = 0
    kv_used: float = 0.0
    steps: int = 0


@dataclass(slots=True)
class Step:
    """What one engine step did: its number (rising, from 1), all events in order, and the load after it."""

    number: int
    events: list[Event]
    load: Load


StepListener = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a served model is and can do. `capabilities` holds lower-case names of mesh.v1.Capability.

    A context length or a vocabulary of 0 is not known, as of a provider's model.
    An adapter is a model of its own, whose `base` names the model that it changes; that one lists it in `adapters`.
    """

    name: str
    fingerprint: str
    context_length: int
    capabilities: frozenset[str]
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    architecture: str = ""
    dtype: str = ""
    device: str = ""
    execution: str = ""
    parameters: int = 0
    adapters: tuple[str, ...] = ()
    base: str | None = None
    dialect: Dialect = UNKNOWN


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, and the tokens over all inputs."""

    vectors: list[list[float]]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TextPair:
    """Two texts that are judged together, such as a query and a document."""

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Classification:
    """For each input a score of each of the `labels`, and the tokens over all inputs. `exclusive`: the scores of an
    input are probabilities that add up to 1."""

    labels: tuple[str, ...]
    scores: list[list[float]]
    prompt_tokens: int
    exclusive: bool


class Engine(ABC):
    """What a worker serves. All methods are called on the event loop's thread."""

    name: str

    @property
    @abstractmethod
    def models(self) -> Sequence[ModelInfo]:
        """The served models, adapters among them; known once `start` has returned."""

    @abstractmethod
    async def start(self, listener: StepListener) -> None:
        """Load what is to be served, then be ready for `submit`. Raises MeshError with one clear sentence."""

    @abstractmethod
    async def stop(self) -> None:
        """End all work and free everything. Live requests get no further event."""

    @abstractmethod
    async def submit(self, request: Request) -> None:
        """Accept a request or raise MeshError; no event of it is reported before this returns."""

    @abstractmethod
    def cancel(self, key: int) -> None:
        """Forget a request; its rows leave within one step. Unknown keys are ignored: it may just have ended."""

    @abstractmethod
    def grant(self, key: int, tokens: int) -> None:
        """Allow `tokens` more tokens on a request that was submitted with a credit."""

    @abstractmethod
    def load(self) -> Load:
        """The load now."""

    async def wait_broken(self) -> None:
        """Return once the engine has broken down for good, live requests have failed, and only a new process helps.

        An engine that cannot break down alone waits for ever.
        """
        await asyncio.Event().wait()

    def stats(self) -> dict[str, float]:
        """Counters since start by name (steps, output_tokens, …), for metrics and AdminService.GetStats.

        Counts and sizes, no shares or means: those of several engines are added up.
        """
        return {}

    async def load_adapter(self, base: str, name: str, path: str) -> ModelInfo:
        """Serve an adapter of the model `base` as `name`, from a folder or from the hub. Raises MeshError."""
        raise unsupported("adapter", "this engine takes no adapters")

    async def unload_adapter(self, name: str) -> None:
        """Take no more requests for an adapter; those that are live end as usual. Raises MeshError."""
        raise unsupported("adapter", "this engine takes no adapters")

    async def embed(
        self,
        model: str,
        inputs: Sequence[Text | Tokens],
        *,
        dimensions: int | None,
        normalize: bool | None,
        truncate: bool,
    ) -> Embeddings:
        """Embedding vectors, one per input."""
        raise unsupported("model", f"model '{model}' does not embed")

    async def classify(
        self, model: str, inputs: Sequence[Text | TextPair], *, raw: bool, truncate: bool
    ) -> Classification:
        """Scores of the classes that the model knows; `raw` are logits."""
        raise unsupported("model", f"model '{model}' does not classify")

    async def tokenize(self, model: str, prompt: Text | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """The ids that the model would see."""
        raise unsupported("model", f"model '{model}' has no tokenizer")

    async def detokenize(self, model: str, ids: Sequence[int], *, keep_special_tokens: bool = False) -> str:
        """The text of token ids."""
        raise unsupported("model", f"model '{model}' has no tokenizer")

    async def tokenizer_files(self, model: str) -> dict[str, bytes]:
        """The tokenizer by file name, in Hugging Face's format: tokenizer.json, and a chat template if any."""
        raise unsupported("model", f"model '{model}' has no tokenizer that could be handed over")
