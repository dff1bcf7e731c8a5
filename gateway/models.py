"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

import msgspec
from quart import Blueprint, Response

from gateway.answers import ModelList
from gateway.directory import Directory
from mesh.errors import ErrorKind, MeshError


def model_routes(directory: Directory) -> Blueprint:
    """The routes of the models API."""
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    async def list_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        return _json(ModelList(directory.models()))

    @routes.get("/v1/models/<path:model_id>")  # names of models may contain slashes
    async def get_model(model_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        for model in directory.models():
            if model.id == model_id:
                return _json(model)
        raise MeshError(ErrorKind.MODEL_NOT_FOUND, f"the model '{model_id[:200]}' does not exist here", param="model")

    return routes


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
