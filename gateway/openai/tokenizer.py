"""POST /tokenize and /detokenize: what a model's tokenizer makes of a text, on one of its workers."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from gateway.exchange import current
from gateway.openai.bodies import read_json
from gateway.openai.tokenizer_schema import DetokenizeRequest, TokenizeRequest, parse_detokenize, parse_tokenize
from gateway.openai.ways import ask_model
from gateway.operation import OF_WORKERS, Operation
from gateway.routing.dispatch import Dispatch
from gateway.routing.unary import detokenize_call, tokenize_call


class Tokens(msgspec.Struct):
    """The token ids of a text or a conversation; `max_model_len` is null if nobody knows."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: None = None


class Detokenized(msgspec.Struct):
    """The text of token ids, special tokens included."""

    prompt: str


TOKENIZE = Operation(
    method="POST",
    path="/tokenize",
    summary="The token ids of a text, or of the prompt that a conversation makes.",
    group="Tokenizer",
    body=TokenizeRequest,
    answer=Tokens,
    errors=OF_WORKERS,
    values={"chat_template": "if the worker allows it", "return_token_strs": "false", "tools": "1 to 128 functions"},
    ignored=("return_token_strs",),
)
DETOKENIZE = Operation(
    method="POST",
    path="/detokenize",
    summary="The text of token ids.",
    group="Tokenizer",
    body=DetokenizeRequest,
    answer=Detokenized,
    errors=OF_WORKERS,
)


def tokenizer_routes(dispatch: Dispatch) -> Blueprint:
    """The routes."""
    routes = Blueprint("tokenizer", __name__)

    @TOKENIZE.on(routes)
    async def tokenize() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        wire = parse_tokenize(await read_json())
        found = await ask_model(exchange, dispatch, wire, tokenize_call)
        ids = list(found.token_ids)
        return _json(Tokens(len(ids), found.context_length or None, ids))

    @DETOKENIZE.on(routes)
    async def detokenize() -> Response:  # pyright: ignore[reportUnusedFunction]
        exchange = current()
        wire = parse_detokenize(await read_json())
        return _json(Detokenized((await ask_model(exchange, dispatch, wire, detokenize_call)).text))

    return routes


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
