"""`python -m gateway.openapi.fields_page`: prints docs/api.md, from the types that parse requests."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from types import NoneType
from typing import Final

import msgspec

from gateway.openai.decision_schema import MAX_LABELS
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
  (`: keep-alive`), which clients skip. It begins when a worker has begun with the request, or after
  `--stream-begin-after` seconds (45, longer than requests wait in the gateway by default); until then an error is an
  answer with its own status.
- `GET /openapi.json` tells this API to programs, and `GET /docs` in a browser to people; neither needs a key
  (`--open-routes`). `GET /version` and `GET /` tell the version. GET routes answer HEAD, and all routes OPTIONS.
- `mesh-gateway --cors-origins ORIGIN` (repeated, or `*`) lets pages of other origins use the API from a browser; off
  by default. Credentials are never allowed: a page sends its key in a header.
"""

_RESPONSES: Final = """## Responses

A response goes through the same generation as a chat: items become messages of the same chat template, and what is said
below on tools and reasoning holds here too.

- Items that are taken: messages (with `input_text`, `input_image`; `output_text` and `refusal` of the assistant),
  `function_call`, `function_call_output`, `reasoning`, `item_reference`. A function in a `namespace` is shown to the
  model as `NAMESPACE__NAME` and comes back with its `namespace`.
- Tools that OpenAI runs itself (`file_search`, `computer_use_preview`, `code_interpreter`, `mcp`, ...) are refused by
  their place in `tools`, but for `web_search`, which clients offer by default and models need not use: it is left out,
  the header `x-mesh-tools-left-out` names it, and `tools` of the response does not. With `mesh-gateway --hosted-tools
  refuse` or `ignore` all are treated alike. A `tool_choice` that demands one of them is refused.
- Codex speaks this API. It needs a model whose calls the worker can read (`--tool-parser`):

      model = "MODEL"
      model_provider = "mesh"

      [model_providers.mesh]
      name = "mesh"
      base_url = "http://127.0.0.1:8000/v1"
      wire_api = "responses"

- A function is `strict` only if the request says so; otherwise its arguments are not held to a grammar.
- Reasoning is an item with `content`. With `reasoning.summary` it is told as a summary instead, word for word: nothing
  is summarized. `reasoning.encrypted_content` is its text in base64, for clients that send it back.
- Log probabilities (`include`, or `top_logprobs`) are those of the text, not of reasoning and calls.
- A stream has the events of OpenAI's, with `sequence_number` from 0, and no `[DONE]`. A fault in mid-stream ends it
  with `response.failed`. `x-mesh-reconnect` works as on chats.
- A response is kept unless `store` is false, in `mesh-gateway --store`, for `--store-retention` days (30) after its
  last change; it is there when the client hears that it is complete. What one API key has made does not exist for
  another.
  `previous_response_id` continues it, also on another gateway with the same store; instructions are not carried over.
  GET, DELETE and `/input_items` (`limit`, `after`, `order`) work on what is kept; `input_items` are those of its own
  request.
- `background: true` answers at once (`queued`), and the response goes on without its client, also when its gateway
  ends: another one with the same store, or the same one started again, computes what is missing with the same seed and
  goes on behind the last event that was written (within ten seconds after a gateway was killed; at once after it was
  stopped). After four gateways it fails. `GET ...?stream=true&starting_after=N` reads its events from N + 1 on, while
  they come or later; a gateway that stops ends such a stream, to be read on at another. `POST .../cancel` ends it.
- `conversation` names one of `/v1/conversations`: its items come before the input, and input and output are added to it
  when the response has ended. Twenty items are added at a time at most.
- Chat completions with `store: true` are kept likewise, with their messages and `metadata`: list (`model`,
  `metadata[KEY]`, `limit`, `after`, `order`), get, update `metadata`, delete.
- When the store cannot be used, what needs it is a 503 with the code `store_unavailable`; `store: false` needs nothing
  of it. `--store none` keeps nothing, and `store` is then false by default.
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
- With `response_format` or `structured_outputs` the content is what they say, and there are no calls. A model that
  reasons does so before, as it always does, and the schema or grammar begins behind its reasoning; with
  `separate_reasoning: false` the whole answer is what they say. vLLM's engine has no reasoning before.
- `tool_choice` that demands a call, `parallel_tool_calls: false` and functions with `strict: true` are kept to by a
  grammar, which the default engine has; other engines refuse them. The format of gpt-oss is held to `tool_choice`
  alone; those of GLM and of Qwen's coders to arguments of one type each, strings without patterns or lengths.
- `functions` and `function_call`, the form before tools, are presented as tools and answered as `function_call`, one
  call at a time as with `parallel_tool_calls: false`; messages of that form are taken as well.
- `tool_choice` of type `allowed_tools` shows the model the allowed tools alone.
- A template that has no place for tools is given them in words, in the system message (with `mesh-worker --tool-parser
  none` it refuses `tools`). One that does not read them refuses `reasoning_effort` and variables of
  `chat_template_kwargs`. Templates with a switch (`enable_thinking`, `thinking`) are given it: off for
  the efforts none and minimal, on for the others.
"""


_MESSAGES: Final = """## Anthropic's API

`POST /v1/messages` and `/v1/messages/count_tokens` speak the versions 2023-06-01 and 2026-10-21 of Anthropic's API
(`anthropic-version`; without the header too), for its SDKs and for programs such as Claude Code
(`ANTHROPIC_BASE_URL=http://HOST:PORT`, `ANTHROPIC_MODEL` a model of the mesh). A request becomes a chat as above and
is answered by the same code; what is said of chats holds.

- Keys come as `x-api-key` or as `Authorization: Bearer`. Errors have Anthropic's envelope, and answers `request-id`
  too. What is a 429 because the mesh is full is a 529 (`overloaded_error`) here. With `anthropic-version`,
  `/v1/models` has Anthropic's shape, with `limit`, `after_id` and `before_id`.
- `thinking` of type enabled or adaptive turns thinking on and shows it; otherwise it is turned off and, of a model
  that thinks all the same, not shown. That, `budget_tokens` and `output_config.effort` are told to chat templates as
  far as they read `enable_thinking`, `thinking`, `thinking_budget` and `reasoning_effort`; others answer as they do.
  `display: omitted` leaves the blocks without their text. A `signature` is a checksum of the text; signatures of
  requests are not checked, and `redacted_thinking` is not shown to the model, which could not read it.
- `tool_choice` and `disable_parallel_tool_use` are kept to by a grammar, as in chats. `input` of a call that
  `max_tokens` has cut off is what came whole. Tools that Anthropic's servers run, or know the schema of, are refused.
- `tool_result` becomes a message of role tool; `is_error` changes nothing, as templates have no mark for it. A
  message of role system within the conversation stays where it is, if the template takes it there. A last message of
  role assistant is gone on with.
- `cache_control` is accepted and changes nothing: workers cache every prefix, as far as there is room.
  `cache_read_input_tokens` are those that came from there, and `input_tokens` the others.
- Images come by `base64` or `url`, documents as plain text. `citations`, `container`, `mcp_servers` and threads are
  refused; the SDK's tool runner then sends the whole conversation instead of a thread.
- A silent stream gets `ping` events. `x-mesh-reconnect` and the failure of a worker are as in chats: the same events.
"""

_DECISIONS: Final = f"""## Decisions

Each question of `/v1/decisions` becomes a chat of one user message: the input, the question, and its answers by
letters; the answer is held to one of these letters. The probability of an answer is that of its letter among the
{MAX_LABELS} likeliest tokens, as a share of all letters there; one that is not among these has 0. `score` is the mean
of the levels, which count from 0, and `confidence` the probability of the likeliest answer. Inputs are texts, or
messages of text; images and calls of tools are refused. Templates that let a model think are told not to. A model
must tell log probabilities and be held to grammars, as on the default engine.
"""


_BATCHES: Final = """## Files and batches

- Files are uploaded as forms (`multipart/form-data`), at most `--max-file-bytes` each; their contents are in
  `--files`, what is known of them in `--store`. A file is gone after `expires_after`, or after `--store-retention`
  days. What belongs to another API key is a 404.
- A batch answers the lines of a file of purpose `batch`: `{"custom_id", "method": "POST", "url", "body"}`, where `url`
  is the batch's `endpoint`, at most 50,000 of them, none with `stream`. They are checked first: a batch with a wrong
  line is `failed`, and `errors` names the first hundred by line. What else is wrong with a body is the answer of its
  line, in the file of errors.
- Requests of batches count for the limits of the key that made the batch. They go behind all others (priority 50),
  `--batch-concurrency` of a gateway at a time, and wait where there is no room or a limit of the minute is reached.
- The result of each line is kept as soon as it is there. If the gateway stops or is lost, another one with the same
  store goes on after `--batch-takeover` seconds, and asks for the lines without results alone: each line is in the
  output once, in the order of the input.
- `usage` has the tokens of all answers so far.
- A batch that is cancelled keeps what was answered; one whose `completion_window` is over is `expired`, and its other
  lines are in the file of errors.
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
            _RESPONSES,
            _TOOLS,
            _DECISIONS,
            f"Parsers of calls: {_names(TOOLS)}. Parsers of reasoning: {_names(['harmony', *REASONING])}.\n",
            _MESSAGES,
            _BATCHES.rstrip(),
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
    assert operation.body is not None
    for each in sorted(msgspec.structs.fields(operation.body), key=lambda field: field.encode_name):
        limit = limits.get(each.name, "")
        yield f"| `{each.encode_name}` | {_fate(operation, each.name, each.type)} | {limit} |"
    yield ""


def _fate(operation: Operation, name: str, kind: object) -> str:
    if kind is NoneType:
        return "refused"
    return "ignored" if name in operation.ignored else "honoured"


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
