"""The documentation page: the OpenAPI document as HTML, in one piece, without scripts or anything from elsewhere."""

from __future__ import annotations

from typing import Any, Final, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gateway.openapi.document import Schema

_TEMPLATE: Final = "page.html.jinja"


def html(document: Schema) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("gateway.openapi", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kind": kind, "prose": prose}
    return environment.get_template(_TEMPLATE).render(api=document, groups=_groups(document))


def prose(text: str) -> Markup:
    """A text in which backticks mark code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def kind(schema: Schema) -> Markup:
    """A schema in few words, with links to those that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        # That a field may be null is the same as that it may be missing.
        branches = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return Markup(" or ").join(map(kind, branches))
    if schema.get("type") == "array" and schema.get("items"):
        return Markup("list of {}").format(kind(cast("Schema", schema["items"])))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(kind(schema["additionalProperties"]))
    if "enum" in schema:
        return Markup(", ").join(Markup("<code>{}</code>").format(each) for each in schema["enum"])
    return escape(_plain(schema))


def _plain(schema: Schema) -> str:
    name = str(schema.get("type", "any value"))
    if "minimum" in schema:
        return f"{name} from {schema['minimum']} to {schema['maximum']}"
    return name


def _groups(document: Schema) -> dict[str, list[dict[str, Any]]]:
    """The operations by their group, in the order of the table."""
    found: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    shared = document["components"]["parameters"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = [
                shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in operation["parameters"]
            ]
            known = {**operation, "path": path, "method": method.upper(), "parameters": parameters}
            found[operation["tags"][0]].append(known)
    return found
