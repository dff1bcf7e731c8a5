"""Request bodies of the OpenAI API: one typed decode, then the limits that types cannot say.

What cannot be honoured is refused by name. `null` always equals "absent". Fields that are accepted although they change
nothing are named in the structs; nothing else is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from gateway.openai import keys
from gateway.openai.keys import no_json
from gateway.openai.whole_numbers import with_whole_numbers
from mesh.errors import MeshError, invalid, out_of_range, unsupported

Body = TypeVar("Body")

INT64: Final = 2**63
UINT32: Final = 2**32 - 1
MAX_STOP: Final = 4
MAX_STOP_CHARACTERS: Final = 1024
MAX_STOP_TOKEN_IDS: Final = 64
MAX_LOGIT_BIAS: Final = 1024
SCHEMA_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a streamed answer. Padding against traffic analysis is never added, so its switch has no effect."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchemaFormat(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON schema for the answer. It is always kept to, whether `strict` or not; the model sees nothing of it."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """The kind of answer: text, json_object or json_schema."""

    type: str
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """A grammar for the answer, in the notation of vLLM's extension; exactly one field. `json` is a schema."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    @property
    def kinds(self) -> list[str]:
        """The fields that are given."""
        return [name for name in self.__struct_fields__ if getattr(self, name) not in (None, False)]


class GenerationRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the bodies of chat and completion requests have in common. Ranges are checked by `check_common`."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None

    # Extensions that users of other open servers expect.
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputs | None = None
    # vLLM's earlier names for what is in `structured_outputs` now.
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None

    # Accepted; it changes nothing here.
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def running_usage(self) -> bool:
        """Whether each chunk of a stream has the usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


_WHERE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_NAMED = re.compile(r"(?:unknown field|required field) `(?P<field>[^`]*)`")


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """The typed body. Raises MeshError (invalid_request, unsupported) naming the field."""
    try:
        found = _decoded(decoder, body)
    except msgspec.ValidationError as error:
        raise _mistake(str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise no_json(error) from None
    if len(body) <= keys.AT_ONCE:
        keys.check_once(body)  # those of larger ones have been looked at before
    return found


def _decoded(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        found = with_whole_numbers(decoder, body, error)
    if isinstance(found, msgspec.ValidationError):
        raise found
    return found


def converted(kind: type[Body], value: object, where: str) -> Body:
    """A value of a body whose type is known only now. Raises MeshError as `decode` does; `where` is its place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _mistake(str(error))
        param = where if found.param in (None, "body") else f"{where}.{found.param}"
        raise MeshError(found.kind, found.message.replace(f"'{found.param}'", f"'{param}'", 1), param=param) from None


def _mistake(text: str) -> MeshError:
    """msgspec's sentence, such as "Expected `int`, got `str` - at `$.n`", as an error that names the field."""
    where = _WHERE.search(text)
    path = where["path"] if where else ""
    sentence = text[: where.start()] if where else text
    named = _NAMED.search(sentence)
    if named:
        param = f"{path}.{named['field']}" if path else named["field"]
        if "unknown" in sentence:
            return invalid(param, f"'{param}' is not a field of this API, or one that is not supported")
        return invalid(param, f"'{param}' is required")
    param = path or "body"
    if sentence.startswith("Expected `null`"):
        return unsupported(param, f"'{param}' is not supported")
    return invalid(param, f"'{param}': {sentence[:1].lower()}{sentence[1:].replace('`', '')}")


RANGES: Final[tuple[tuple[str, float, float], ...]] = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("n", 1, 128),
    ("max_tokens", 1, UINT32),
    ("seed", -INT64, INT64 - 1),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("top_k", -1, 2**31 - 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0.01, 10),
    ("min_tokens", 0, UINT32),
    ("prompt_logprobs", 0, 20),
    ("priority", -100, 100),
)
# Limits that are no ranges, for people.
VALUES: Final = {"seed": "64 bits with sign", "stop": "at most 4"}
_ABOVE_ZERO: Final[tuple[tuple[str, float], ...]] = (("typical_p", 1),)


def check_ranges(request: GenerationRequest, ranges: Sequence[tuple[str, float, float]]) -> None:
    """Numbers within their limits, which count as allowed. Raises MeshError."""
    for name, low, high in ranges:
        value: float | None = getattr(request, name)
        if value is not None and not low <= value <= high:
            raise out_of_range(name, value, low, high)


def check_common(request: GenerationRequest) -> None:
    """The limits of the common fields. Raises MeshError."""
    check_ranges(request, RANGES)
    for name, high in _ABOVE_ZERO:
        value: float | None = getattr(request, name)
        if value is not None and not 0 < value <= high:
            raise invalid(name, f"'{name}' must be above 0 and at most {high}, not {value}")
    _check_stop(request)
    _check_logit_bias(request.logit_bias)
    _check_tokens(request)
    _take_guided(request)
    _check_constraint(request)


def stops(request: GenerationRequest) -> list[str]:
    """The stop strings as a list."""
    return [request.stop] if isinstance(request.stop, str) else request.stop or []


def _check_stop(request: GenerationRequest) -> None:
    texts = stops(request)
    if len(texts) > MAX_STOP:
        raise invalid("stop", f"'stop' must have at most {MAX_STOP} strings, not {len(texts)}")
    for text in texts:
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            raise invalid(
                "stop", f"each string of 'stop' must have 1 to {MAX_STOP_CHARACTERS} characters, not {len(text)}"
            )


def _check_logit_bias(bias: dict[str, float] | None) -> None:
    if not bias:
        return
    if len(bias) > MAX_LOGIT_BIAS:
        raise invalid("logit_bias", f"'logit_bias' must have at most {MAX_LOGIT_BIAS} entries, not {len(bias)}")
    for token, value in bias.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) <= UINT32):
            raise invalid("logit_bias", f"the keys of 'logit_bias' must be token ids, not '{token}'")
        if not -100 <= value <= 100:
            raise out_of_range("logit_bias", f"{value} (of token {token})", -100, 100)


def _check_tokens(request: GenerationRequest) -> None:
    ids = request.stop_token_ids or ()
    if len(ids) > MAX_STOP_TOKEN_IDS:
        raise invalid("stop_token_ids", f"'stop_token_ids' must have at most {MAX_STOP_TOKEN_IDS} ids, not {len(ids)}")
    for token in ids:
        if not 0 <= token <= UINT32:
            raise out_of_range("stop_token_ids", token, 0, UINT32)
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "'stream_options' needs 'stream' to be true")
    if request.prompt_logprobs is not None and request.stream:
        raise invalid("prompt_logprobs", "'prompt_logprobs' needs 'stream' to be false")


_GUIDED: Final = ("json", "regex", "choice", "grammar")


def _take_guided(request: GenerationRequest) -> None:
    """Put a constraint by its earlier name where it belongs."""
    given = [name for name in _GUIDED if getattr(request, f"guided_{name}") is not None]
    if not given:
        return
    first = f"guided_{given[0]}"
    others = [f"guided_{name}" for name in given[1:]]
    if request.structured_outputs is not None:
        others.append("structured_outputs")
    if request.response_format is not None and request.response_format.type != "text":
        others.append("response_format")
    if others:
        raise invalid(first, f"'{first}' excludes '{others[0]}'")
    if not getattr(request, first) or not all(request.guided_choice or [True]):
        raise invalid(first, f"'{first}' must not be empty")
    request.structured_outputs = StructuredOutputs(**{given[0]: getattr(request, first)})


def _check_constraint(request: GenerationRequest) -> None:
    wanted, other = request.response_format, request.structured_outputs
    if wanted is not None:
        _check_response_format(wanted)
    if other is None:
        return
    if len(other.kinds) != 1:
        given = ", ".join(other.kinds) or "none"
        kinds = ", ".join(StructuredOutputs.__struct_fields__)
        raise invalid("structured_outputs", f"'structured_outputs' must have exactly one of {kinds}, not {given}")
    for name in ("regex", "grammar", "json"):
        if getattr(other, name) == "":
            raise invalid(f"structured_outputs.{name}", f"'structured_outputs.{name}' must not be empty")
    if other.choice is not None and not all(other.choice or [""]):
        raise invalid(
            "structured_outputs.choice", "'structured_outputs.choice' must hold at least one text, and no empty one"
        )
    if wanted is not None and wanted.type != "text":
        raise invalid("structured_outputs", f"'structured_outputs' excludes 'response_format' of type {wanted.type}")


def _check_response_format(wanted: ResponseFormat) -> None:
    if wanted.type not in ("text", "json_object", "json_schema"):
        text = f"'response_format.type' must be text, json_object or json_schema, not '{wanted.type[:64]}'"
        raise invalid("response_format.type", text)
    if wanted.type != "json_schema":
        if wanted.json_schema is not None:
            raise invalid("response_format.json_schema", "'response_format.json_schema' needs the type json_schema")
    elif wanted.json_schema is None:
        raise invalid("response_format.json_schema", "'response_format.json_schema' is required with its type")
    elif not SCHEMA_NAME.fullmatch(wanted.json_schema.name):
        param = "response_format.json_schema.name"
        text = (
            f"'{param}' must have 1 to 64 letters, digits, underscores and dashes, not '{wanted.json_schema.name[:80]}'"
        )
        raise invalid(param, text)
