"""`python -m gateway.openapi.fields_page`: prints docs/api.md, from the types that parse requests."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from types import NoneType
from typing import Final

from gateway.openapi.table import OPERATIONS
from gateway.operation import Operation
from mesh.dialects import REASONING, TOOLS

_HEAD: Final = """# The OpenAI API of the gateway

Written by `make docs` from the code; a test sees to it that it is current.

What becomes of each field of a request: it is **honoured**, **refused** with a 400 whose `param` names it unless it
is null, or **ignored**: accepted, although it changes nothing here. A field that is in none of the tables is
refused by its name. `null` is the same as an absent field.
"""

_HTTP: Final = """## HTTP

- Bodies are JSON (`application/json`), plain or with `content-encoding: gzip` or `deflate`; `--max-body-bytes` counts
  what is in them. Another type or encoding is a 415. A key that comes twice in an object, and what is no UTF-8, is
  a 400.
- Every answer has `x-request-id` (the client's own, if it sends one) and `openai-processing-ms`, the milliseconds
  until its headers were ready. An unknown path is a 404, another method a 405 with `allow`, both in the envelope of
  errors.
- A stream that is silent for `--stream-keep-alive` seconds (15), as while a long prompt is read, gets a comment
  (`: keep-alive`), which clients skip. It begins when a worker has begun with the request; until then an error is an
  answer with its own status.
- `GET /openapi.json` tells this API to programs, and `GET /docs` in a browser to people; neither needs a key
  (`--open-routes`). `GET /version` and `GET /` tell the version. GET routes answer HEAD, and all routes OPTIONS.
- `mesh-gateway --cors-origins ORIGIN` (repeated, or `*`) lets pages of other origins use the API from a browser; off
  by default. Credentials are never allowed: a page sends its key in a header.
"""

_TOOLS: Final = """## Tools and reasoning

A worker tells from the chat template of its model how the model writes calls of tools and reasoning (`mesh-worker
--tool-parser`, `--reasoning-parser`; `none` leaves them in the text). The gateway takes the answer apart
accordingly:

- Calls come as `tool_calls` with `finish_reason: tool_calls`, in a stream as the model writes them. What looks like
  a call and is none stays in the content: no text is lost. White space next to the model's marks belongs to the
  marks.
- Reasoning comes as `reasoning_content` (as of DeepSeek and SGLang) and `reasoning` (as of vLLM), or as one of them
  by `mesh-gateway --reasoning-field`. `include_reasoning: false` leaves it away, `separate_reasoning: false` leaves
  it in the content. Its tokens are counted in `usage.completion_tokens_details.reasoning_tokens`, those of its
  marks too.
- Log probabilities are those of all tokens, marks and reasoning included.
- With `response_format` or `structured_outputs` the whole answer is what they say: it has no calls and no
  reasoning.
- `tool_choice` that demands a call, `parallel_tool_calls: false` and functions with `strict: true` are kept to by a
  grammar, which the default engine has; other engines refuse them. The format of gpt-oss is held to `tool_choice`
  alone; those of GLM and of Qwen's coders to arguments of one type each, strings without patterns or lengths.
- `tool_choice` of type `allowed_tools` shows the model the allowed tools alone.
- A template that presents no tools refuses `tools`; one that does not read them refuses `reasoning_effort` and
  variables of `chat_template_kwargs`. Templates with a switch (`enable_thinking`, `thinking`) are given it: off for
  the efforts none and minimal, on for the others.
"""


def page() -> str:
    """The page."""
    return "\n".join(
        [
            _HEAD,
            "## Routes\n",
            *_routes(),
            "",
            *(line for operation in OPERATIONS if operation.body is not None for line in _fields(operation)),
            _HTTP,
            _TOOLS,
            f"Parsers of calls: {_names(TOOLS)}. Parsers of reasoning: {_names(['harmony', *REASONING])}.",
        ]
    )


def _names(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _routes() -> Iterator[str]:
    yield "| route | | |"
    yield "| :-- | :-- | :-- |"
    for each in OPERATIONS:
        yield f"| `{each.method} {each.url}` | {each.group} | {each.summary} |"


def _fields(operation: Operation) -> Iterator[str]:
    """What becomes of each field of a body."""
    limits = {name: f"{low} to {high}" for name, low, high in operation.ranges} | dict(operation.values)
    yield f"## {operation.method} {operation.url}\n"
    yield "| field | | values |"
    yield "| :-- | :-- | :-- |"
    for name, kind in sorted(typing.get_type_hints(operation.body).items()):
        yield f"| `{name}` | {_fate(operation, name, kind)} | {limits.get(name, '')} |"
    yield ""


def _fate(operation: Operation, name: str, kind: object) -> str:
    if kind is NoneType:
        return "refused"
    return "ignored" if name in operation.ignored else "honoured"


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
