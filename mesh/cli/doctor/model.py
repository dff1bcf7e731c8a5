"""A model: whether a worker could read it, and whether it can chat."""

from __future__ import annotations

from importlib.util import find_spec

from mesh.cli.doctor.finding import Finding
from mesh.errors import MeshError


def model(path: str) -> list[Finding]:
    """Read all of a model but its weights, as a worker would, and render a chat."""
    if find_spec("transformers") is None:
        return [Finding("model", "fail", "transformers is not installed", "pip install 'inference-mesh[worker]'")]
    from mesh.engine.base import Chat, Message
    from mesh.engine.transformers.loading.options import LoadOptions
    from mesh.engine.transformers.loading.text_side import load_text_side

    told: list[str] = []
    try:
        side = load_text_side(LoadOptions(path=path), told.append, number_format="")
    except MeshError as error:
        return [Finding("model", "fail", error.message, "docs/models.md says which models are served, and how")]
    found = f"{side.name}: {side.architecture}, fingerprint {side.fingerprint}"
    try:
        tokens = side.chat.render(Chat(messages=(Message(role="user", parts=("Hello",)),)))
    except MeshError as error:
        remedy = "--chat-template NAME (`mesh templates` lists them) or FILE; without one it only completes texts"
        return [Finding("model", "ok", found), Finding("model", "warn", f"{side.name}: {error.message}", remedy)]
    return [Finding("model", "ok", f"{found}; its chat template makes {len(tokens)} tokens of a greeting")]
