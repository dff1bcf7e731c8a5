"""Request body of the text completion API: what differs from chat is a prompt in one of four forms."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.openai.inputs import Inputs, check_inputs, each_input
from gateway.openai.schema import GenerationRequest, check_common, check_ranges, decode
from mesh.errors import invalid, out_of_range

MAX_COMPLETIONS: Final = 128
COMPLETION_RANGES: Final = (("logprobs", 0, 5),)


class CompletionRequest(GenerationRequest, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/completions. Ranges are checked by `check`."""

    prompt: Inputs
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None

    # Known to the API, not served: refused by name unless null.
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or more prompts, each a text or token ids."""
        return each_input(self.prompt)


_decoder = msgspec.json.Decoder(CompletionRequest)


def parse_completion(body: bytes) -> CompletionRequest:
    """Decode and check a body. Raises MeshError (invalid_request, unsupported) naming field, limit and value."""
    request = decode(_decoder, body)
    check_inputs("prompt", request.prompt)
    check_common(request)
    check_ranges(request, COMPLETION_RANGES)
    choices = request.n or 1
    _check_best_of(request, choices)
    choices = max(choices, request.best_of or 0)
    if len(request.prompts) * choices > MAX_COMPLETIONS:
        text = f"'prompt' has {len(request.prompts)} prompts for {choices} completions each: at most {MAX_COMPLETIONS}"
        raise invalid("prompt", f"{text} completions are made in one request")
    return request


def _check_best_of(request: CompletionRequest, choices: int) -> None:
    if request.best_of is None or request.best_of == choices:
        return
    if not choices < request.best_of <= MAX_COMPLETIONS:
        raise out_of_range("best_of", request.best_of, choices, MAX_COMPLETIONS)
    if request.stream:
        text = (
            f"'best_of' must equal 'n' ({choices}) with 'stream', not {request.best_of}: the best are known at the end"
        )
        raise invalid("best_of", text)
