"""Request body of the embeddings API."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.openai.inputs import Inputs, check_inputs, each_input
from gateway.openai.schema import UINT32, decode
from mesh.errors import invalid, out_of_range
from mesh.v1 import inference_pb2 as pb

MAX_INPUTS: Final = 2048
MAX_TOKENS: Final = 300_000


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of POST /v1/embeddings."""

    model: str
    input: Inputs
    encoding_format: str | None = None
    dimensions: int | None = None

    # Extensions: whether vectors have length 1 (else as the model says), and whether inputs that are longer than the
    # model's context are cut instead of refused.
    normalize: bool | None = None
    truncate: bool | None = None

    # Accepted; it changes nothing here.
    user: str | None = None


_decoder = msgspec.json.Decoder(EmbeddingRequest)


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Decode and check a body. Raises MeshError (invalid_request) naming field, limit and value."""
    request = decode(_decoder, body)
    check_inputs("input", request.input)
    inputs = each_input(request.input)
    if len(inputs) > MAX_INPUTS:
        raise invalid("input", f"'input' must hold at most {MAX_INPUTS} inputs, not {len(inputs)}")
    if "" in inputs:
        raise invalid("input", f"'input' must not hold an empty text, as at index {inputs.index('')}")
    tokens = sum(len(ids) for ids in inputs if isinstance(ids, list))
    if tokens > MAX_TOKENS:
        raise invalid("input", f"'input' must hold at most {MAX_TOKENS} token ids in all, not {tokens}")
    if request.encoding_format not in (None, "float", "base64"):
        raise invalid("encoding_format", f"'encoding_format' must be float or base64, not '{request.encoding_format}'")
    if request.dimensions is not None and not 1 <= request.dimensions <= UINT32:
        raise out_of_range("dimensions", request.dimensions, 1, UINT32)
    return request


def to_embed(request: EmbeddingRequest, request_id: str) -> pb.EmbedRequest:
    """The wire's request."""
    wire = pb.EmbedRequest(request_id=request_id, model=request.model, truncate=bool(request.truncate))
    for each in each_input(request.input):
        if isinstance(each, str):
            wire.inputs.add(text=each)
        else:
            wire.inputs.add(tokens=pb.TokenIds(ids=each))
    if request.dimensions is not None:
        wire.dimensions = request.dimensions
    if request.normalize is not None:
        wire.normalize = request.normalize
    return wire
