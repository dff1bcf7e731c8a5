"""The gateway's own description: complete, kept to by every answer, and a page that needs nothing else."""

from __future__ import annotations

import asyncio
import json
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
import schemathesis
import schemathesis.checks
import schemathesis.specs.openapi.checks as conformance
from hypothesis import HealthCheck, given, settings

from gateway.openai.answers import ChatChunk, TextChunk
from gateway.openapi.document import document
from gateway.openapi.page import html
from gateway.openapi.table import OPERATIONS
from tests.component.gateway_fixture import GatewayUnderTest, body
from tests.component.gateway_worker import FakeWorker
from tests.component.test_gateway_keys import make_book
from tests.component.whole_mesh import whole

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
ANSWERS: list[Any] = [
    schemathesis.checks.not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_schema_conformance,
]
LIMITS: list[Any] = [conformance.negative_data_rejection, conformance.unsupported_method]
KEYS: list[Any] = [conformance.ignored_auth]


async def test_every_route_of_the_application_is_described_and_no_other() -> None:
    async with GatewayUnderTest() as gateway:
        rules = gateway.app.url_map
    served = [
        (method, rule.rule) for rule in rules.iter_rules() for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    ]
    assert sorted(served) == sorted((each.method, each.path) for each in OPERATIONS)


def test_names_of_fields_in_the_table_are_fields() -> None:
    for each in OPERATIONS:
        named = {*(name for name, _, _ in each.ranges), *each.values, *each.ignored}
        fields = getattr(each.body, "__struct_fields__", ())
        assert named <= set(fields), each.path


def test_answers_tell_which_fields_they_always_have() -> None:
    schemas = document(keyed=False, open_routes=())["components"]["schemas"]
    asked_for = {"prompt_logprobs", "prompt_token_ids"}
    assert set(schemas["ChatAnswer"]["required"]) == set(schemas["ChatAnswer"]["properties"]) - asked_for
    assert schemas["ChatRequest"]["required"] == ["model", "messages"]


async def asked(gateway: GatewayUnderTest, checks: list[Any], headers: dict[str, str], *, examples: int) -> None:
    """Send what the document allows and what it forbids, to each route."""
    gateway.directory.on_state(True)
    async with asyncio.timeout(50):
        await asyncio.to_thread(_ask, gateway.url, checks, headers, examples)


def _ask(url: str, checks: list[Any], headers: dict[str, str], examples: int) -> None:
    api: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for kind in api.raw_schema["components"]["schemas"].values():
        if "model" in kind["properties"] and "required" in kind:
            kind["properties"]["model"] = {"enum": ["m", "other"]}
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(max_examples=examples, suppress_health_check=SLOW)
        @given(operation.as_strategy())
        def check(case: Any) -> None:
            case.headers.pop("x-deadline-ms", None)  # a short one is met by 504
            case.call_and_validate(base_url=url, checks=checks, headers=headers)

        check()


@pytest.mark.slow
async def test_every_answer_is_as_described() -> None:
    async with whole() as (gateway, _):
        await asked(gateway, [*ANSWERS, *LIMITS], {}, examples=10)


async def test_every_answer_is_as_described_where_keys_are_needed() -> None:
    book, _, key = make_book()
    headers = {"Authorization": key["authorization"]}  # so spelt it is known as a key, and left away once
    async with whole(book=book) as (gateway, _):
        await asked(gateway, [*ANSWERS, *KEYS], headers, examples=3)
        await asked(gateway, [*ANSWERS, *KEYS], {}, examples=2)


@pytest.mark.parametrize(
    ("path", "fields", "kind"),
    [
        ("/v1/chat/completions", body(n=2, logprobs=True), ChatChunk),
        ("/v1/completions", {"model": "m", "prompt": "hi", "logprobs": 1}, TextChunk),
    ],
)
async def test_chunks_have_the_fields_that_are_described(path: str, fields: dict[str, Any], kind: type) -> None:
    async with FakeWorker("w") as worker, GatewayUnderTest() as gateway:
        await gateway.add(worker)
        options = {"include_usage": True}
        streamed = await gateway.http.post(path, json={**fields, "stream": True, "stream_options": options})
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    for event in events:
        assert msgspec.to_builtins(msgspec.json.decode(event, type=kind)) == json.loads(event)


async def test_both_forms_are_there_without_a_key() -> None:
    book, _, _ = make_book()
    async with GatewayUnderTest(book=book) as gateway:
        described, page = await gateway.http.get("/openapi.json"), await gateway.http.get("/docs")
    operations = described.json()["paths"]
    assert operations["/v1/chat/completions"]["post"]["security"]
    assert not operations["/openapi.json"]["get"]["security"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.places.add(f"#{found['id']}")
        if tag == "a" and found.get("href"):
            self.links.add(found["href"] or "")
        elif found.get("src") or found.get("href"):
            self.loaded.append(tag)


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    read = _Links()
    read.feed(html(document(keyed=True, open_routes=())))
    assert not read.loaded
    assert len(read.places) > 2 * len(OPERATIONS)
    assert read.links - read.places == {"openapi.json"}
