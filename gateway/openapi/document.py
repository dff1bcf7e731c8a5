"""The OpenAPI document, from the table of routes and the types that parse requests and write answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, cast

import msgspec

from gateway.openapi.table import OPERATIONS
from gateway.operation import SSE, Operation
from mesh.version import version

Schema = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{name}"
_ABOUT: Final = """Language models of an inference mesh, by the API of OpenAI.

A field of a request that is in no schema is refused by its name; `null` is the same as an absent field. A stream ends
with the event `[DONE]`; an error after its first byte is an event with the envelope of errors, without `[DONE]`."""
_WHY: Final = {
    400: "A field or a header is wrong, or cannot be honoured; `param` names it.",
    401: "There is no API key, or not a valid one.",
    403: "The key does not allow this.",
    404: "What the request names does not exist here.",
    408: "The body did not arrive in time.",
    409: "The state of what the request names does not allow this.",
    413: "The body is too large.",
    415: "The content type or encoding of the body is not supported.",
    422: "The content of the request has made several workers fail.",
    429: "A limit of the key is reached, or there is too much work.",
    500: "The gateway or a worker failed.",
    502: "The worker was lost, and no other one could go on.",
    503: "No worker can take the request now.",
    504: "The deadline of the request, or of the gateway, has passed.",
    529: "There is too much work; Anthropic's API has a status of its own for it.",
}
_HEADERS: Final[dict[str, tuple[str, Schema]]] = {
    "x-request-id": ("Id of the request, in logs and in the answer; one is made if it is missing.", {"type": "string"}),
    "x-deadline-ms": (
        "Milliseconds after which the answer is of no use.",
        {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
    ),
}
_OF_STREAMS: Final[dict[str, tuple[str, Schema]]] = {
    "x-mesh-reconnect": ("`1` gives each event of a stream an id, to come back with.", {"type": "string"}),
    "Last-Event-ID": ("Go on behind the event with this id; the request must be the same.", {"type": "string"}),
    "x-mesh-trace": ("`1` asks which workers produced the answer.", {"type": "string"}),
}
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as OpenAI's clients send it."},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "An API key, as Anthropic's clients send it.",
    },
}


def document(*, keyed: bool, open_routes: Collection[str]) -> Schema:
    """The document of a gateway that needs API keys (`keyed`) for all but its open routes, or does not."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        needs_key = keyed and operation.path not in open_routes
        paths.setdefault(operation.url, {})[operation.method.lower()] = _operation(operation, schemas, needs_key)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Inference mesh", "version": version(), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": group} for group in dict.fromkeys(each.group for each in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "parameters": {name: _header(name, *about) for name, about in (_HEADERS | _OF_STREAMS).items()},
            "securitySchemes": _KEYS,
        },
    }


class _Schemas:
    """The JSON schemas of all types in the table."""

    def __init__(self) -> None:
        answers = [kind for each in OPERATIONS for kind in (each.answer, each.error, *each.events) if kind is not None]
        bodies = [kind for each in OPERATIONS for kind in (each.body, each.query) if kind is not None]
        kinds = list(dict.fromkeys([*answers, *bodies]))
        found, self.components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
        self._of = dict(zip(kinds, found, strict=True))
        for name in self._within(answers):
            _require_all(self.components[name])
        for operation in OPERATIONS:
            if operation.body is not None:
                _describe(self.components[self.name(operation.body)], operation)

    def of(self, kind: Any) -> Schema:
        """The schema of a type, or a reference to it."""
        return self._of[kind]

    def name(self, kind: Any) -> str:
        """What a type is called among the components."""
        return _target(self._of[kind])

    def properties(self, kind: type) -> dict[str, Schema]:
        """The properties of a struct."""
        return self.components[self.name(kind)]["properties"]

    def _within(self, kinds: list[Any]) -> set[str]:
        """The components of which values of these types consist."""
        names: set[str] = set()
        waiting = list(_references([self._of[kind] for kind in kinds]))
        while waiting:
            name = waiting.pop()
            if name not in names:
                names.add(name)
                waiting += _references(self.components[name])
        return names


def _references(schema: Any) -> Iterator[str]:
    """The names of components that a schema refers to."""
    if isinstance(schema, dict):
        mapping = cast("Schema", schema)
        if "$ref" in mapping:
            yield _target(mapping)
        for value in mapping.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in cast("list[Any]", schema):
            yield from _references(value)


def _target(reference: Schema) -> str:
    return reference["$ref"].rpartition("/")[2]


def _require_all(schema: Schema) -> None:
    """An answer has its fields also where they are the default; those that may be missing have none."""
    given = [name for name, field in schema.get("properties", {}).items() if "default" in field]
    if given:
        schema["required"] = [*schema.get("required", ()), *given]


def _describe(schema: Schema, operation: Operation) -> None:
    """Say of a body's fields what their types do not."""
    properties: dict[str, Schema] = schema["properties"]
    for name, low, high in operation.ranges:
        for branch in properties[name].get("anyOf", [properties[name]]):
            if branch.get("type") in ("integer", "number"):
                branch |= {"minimum": low, "maximum": high}
    for name, field in properties.items():
        if field.get("type") == "null":
            field["description"] = "Not supported."
        elif name in operation.ignored:
            field["description"] = _sentence("Accepted; it changes nothing here", operation.values.get(name))
        elif name in operation.values:
            limit = operation.values[name]
            field["description"] = f"{limit[:1].upper()}{limit[1:]}."


def _sentence(text: str, values: str | None) -> str:
    return f"{text}: {values}." if values else f"{text}."


def _operation(operation: Operation, schemas: _Schemas, needs_key: bool) -> Schema:
    found: Schema = {
        "operationId": f"{operation.method.lower()}{_spoken(operation.url)}",
        "summary": operation.summary,
        "tags": [operation.group],
        "parameters": list(_parameters(operation, schemas)),
        "responses": dict(_responses(operation, schemas)),
        "security": [{name: []} for name in _KEYS] if needs_key else [],
    }
    if operation.body is not None:
        content = {operation.takes: {"schema": schemas.of(operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _spoken(url: str) -> str:
    words = url.replace("/", "_").replace(".", "_").replace("{", "").replace("}", "")
    return words if words != "_" else "_root"


def _parameters(operation: Operation, schemas: _Schemas) -> Iterator[Schema]:
    for name in operation.places:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if operation.query is not None:
        required = schemas.components[schemas.name(operation.query)].get("required", ())
        for name, schema in schemas.properties(operation.query).items():
            yield {"name": name, "in": "query", "required": name in required, "schema": schema}
    for name in (*_HEADERS, *(_OF_STREAMS if operation.events else ())):
        yield {"$ref": f"#/components/parameters/{name}"}


def _header(name: str, about: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": about, "schema": schema}


def _responses(operation: Operation, schemas: _Schemas) -> Iterator[tuple[str, Schema]]:
    yield str(operation.status), {"description": _success(operation), "content": _content(operation, schemas)}
    for status, text in operation.also.items():
        found: Schema = {"description": text}
        yield str(status), found if status == 204 else {**found, "content": _content(operation, schemas)}
    for status in operation.failures:
        if status not in operation.also:
            content = {"application/json": {"schema": schemas.of(operation.error)}}
            yield str(status), {"description": _WHY[status], "content": content}


def _success(operation: Operation) -> str:
    return "The answer, in one piece or, with `stream`, as server-sent events." if operation.events else "The answer."


def _content(operation: Operation, schemas: _Schemas) -> Schema:
    answer = operation.answer
    content: Schema = {operation.gives: {"schema": schemas.of(answer) if answer is not None else {"type": "string"}}}
    if operation.events:
        content[SSE] = {
            "schema": {"type": "string", "description": "Server-sent events, one JSON value as the data of each."},
            "x-event-data": {"anyOf": [schemas.of(kind) for kind in operation.events]},
        }
    return content
