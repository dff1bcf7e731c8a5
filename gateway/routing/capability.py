"""What a request needs a worker to be able to do, and how to say that none can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.errors import MeshError, unsupported
from mesh.v1 import inference_pb2 as pb

# The field of the request at fault, and what a model without the capability is like.
_REFUSALS: Mapping[pb.Capability, tuple[str, str]] = {
    pb.CAPABILITY_COMPLETION: ("model", "does not complete text"),
    pb.CAPABILITY_CHAT: ("messages", "has no chat template: it does not answer conversations"),
    pb.CAPABILITY_EMBED: ("model", "does not embed"),
    pb.CAPABILITY_RESUME: ("return_token_ids", "tells no token ids"),
    pb.CAPABILITY_CLASSIFY: ("model", "does not classify"),
    pb.CAPABILITY_LOGPROBS: ("logprobs", "tells no log probabilities"),
    pb.CAPABILITY_CONSTRAINT: ("constraint", "cannot be held to a schema or grammar"),
    pb.CAPABILITY_VISION: ("messages", "cannot see, and 'messages' holds an image"),
    pb.CAPABILITY_TOOLS: ("tools", "has a chat template that does not present tools"),
    pb.CAPABILITY_PROMPT_LOGPROBS: ("prompt_logprobs", "tells no log probabilities of the prompt"),
}


def names(capabilities: Iterable[int]) -> list[str]:
    """The capabilities in words, as engines call them. One that this gateway does not know is left out."""
    known = pb.Capability.DESCRIPTOR.values_by_number
    found = (known[number].name for number in capabilities if number in known)
    return sorted(name.removeprefix("CAPABILITY_").lower() for name in found)


def needs(request: pb.GenerateRequest) -> frozenset[pb.Capability]:
    """What a worker must have announced to be given the request."""
    found: set[pb.Capability] = set()
    if request.HasField("chat"):
        found.add(pb.CAPABILITY_CHAT)
        if request.chat.tools:
            found.add(pb.CAPABILITY_TOOLS)
        if any(part.HasField("image") for message in request.chat.messages for part in message.parts):
            found.add(pb.CAPABILITY_VISION)
    else:
        found.add(pb.CAPABILITY_COMPLETION)
    if request.HasField("constraint"):
        found.add(pb.CAPABILITY_CONSTRAINT)
    if request.output.HasField("logprobs"):
        found.add(pb.CAPABILITY_LOGPROBS)
    if request.output.HasField("prompt_logprobs"):
        found.add(pb.CAPABILITY_PROMPT_LOGPROBS)
    if request.output.prompt_token_ids:
        found.add(pb.CAPABILITY_RESUME)  # which takes those of the answer
    return frozenset(found)


def refusal(model: str, capability: pb.Capability) -> MeshError:
    """The error for a model of which no worker has the capability."""
    param, what = _REFUSALS.get(capability, ("model", f"lacks {pb.Capability.Name(capability)}"))
    return unsupported(param, f"the model '{model[:200]}' {what}")
