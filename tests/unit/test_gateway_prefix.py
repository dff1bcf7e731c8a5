"""Hashes of prompts' beginnings: as far as two prompts are the same, so are their marks, and no farther."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from gateway.routing.prefix import Prefix, PrefixTable, Prompt
from mesh.v1 import inference_pb2 as pb

LONG = "In the beginning there were words, and they went on for long. " * 100


def chat(*turns: str, system: str = "You help.", **fields: str) -> pb.GenerateRequest:
    """A conversation whose turns are the user's and the assistant's by turns."""
    request = pb.GenerateRequest(model=fields.pop("model", "m"), **fields)  # pyright: ignore[reportArgumentType]
    request.chat.messages.add(role="system").parts.add(text=system)
    for place, text in enumerate(turns):
        request.chat.messages.add(role="assistant" if place % 2 else "user").parts.add(text=text)
    return request


def shared(first: Prefix, second: Prefix) -> int:
    """Bytes that both have by their marks."""
    both = {mark.digest for mark in first.marks} & {mark.digest for mark in second.marks}
    return max((mark.size for mark in first.marks if mark.digest in both), default=0)


def test_turns_of_a_conversation_share_what_came_before_and_their_place() -> None:
    turns = ["What is a mesh?", "Many machines.", "How many?", "Some.", LONG]
    prefixes = [Prefix(chat(*turns[: count + 1])) for count in (0, 2, 4)]
    assert len({prefix.key for prefix in prefixes}) == 1
    assert shared(prefixes[0], prefixes[1]) == prefixes[0].size
    assert shared(prefixes[1], prefixes[2]) == prefixes[1].size


def test_conversations_under_one_system_prompt_share_that_and_not_their_place() -> None:
    first, second = Prefix(chat("Question one", system=LONG)), Prefix(chat("Question two", system=LONG))
    assert first.key != second.key
    assert 0.9 * len(LONG) < shared(first, second) < first.key_size


def test_questions_about_one_document_share_it_and_their_place() -> None:
    first, second = Prefix(chat(LONG + "Who wrote it?")), Prefix(chat(LONG + "Why?"))
    assert first.key == second.key
    assert 0.9 * len(LONG) < shared(first, second) <= len(LONG) + 100


def test_prompts_of_text_and_of_tokens() -> None:
    first, second = Prefix(pb.GenerateRequest(text=LONG + "a")), Prefix(pb.GenerateRequest(text=LONG + "b"))
    assert first.key == second.key
    assert shared(first, second) > 0.9 * len(LONG)
    ids = pb.GenerateRequest(tokens=pb.TokenIds(ids=range(3000)))
    assert Prompt(ids).tokens == 3000


@pytest.mark.parametrize("field", ["model", "tenant", "cache_salt", "adapter"])
def test_what_workers_keep_apart_shares_nothing(field: str) -> None:
    first, second = Prefix(chat("Hi", **{field: "one"})), Prefix(chat("Hi", **{field: "two"}))
    assert shared(first, second) == 0
    assert first.key != second.key


def test_tools_and_templates_stand_before_everything() -> None:
    plain, tooled, forced, hinted = chat("Hi"), chat("Hi"), chat("Hi"), chat("Hi")
    tooled.chat.tools.add(name="look", parameters_json="{}")
    forced.chat.template_arguments["enable_thinking"] = True
    hinted.chat.template_hints["enable_thinking"] = True
    assert len({Prefix(request).key for request in (plain, tooled, forced, hinted)}) == 4


def test_pictures_are_told_apart_and_count_alike_whatever_their_size() -> None:
    def look(data: bytes) -> Prefix:
        request = chat("What is this?")
        request.chat.messages[-1].parts.add().image.data = data
        return Prefix(request)

    small, large = look(b"small"), look(os.urandom(1 << 20))
    assert small.size == large.size < 4096
    assert small.marks[-1] != large.marks[-1]
    assert look(b"small").marks == small.marks


def test_a_megabyte_has_some_hundred_marks() -> None:
    assert 100 < len(Prefix(pb.GenerateRequest(text=os.urandom(1 << 19).hex())).marks) < 250
    many = Prefix(chat(*["word " * 10] * 5000))
    assert len(many.marks) < 500


@pytest.mark.parametrize("turns", [[], [""], ["", ""]])
def test_empty_prompts_have_a_place_too(turns: Sequence[str]) -> None:
    assert Prefix(chat(*turns)).key == Prefix(chat(*turns)).key
    assert Prefix(pb.GenerateRequest(text="")).marks


def test_an_answer_counts_as_cached_where_it_was_computed() -> None:
    table = PrefixTable(100)
    table.note(Prefix(chat("Tell me a story.")), "w")
    story, other = Prefix(chat("Tell me a story.", LONG, "And then?")), Prefix(chat("Tell me a tale.", LONG, "Well?"))
    assert 0.97 < table.cached_share(story, "w") < 1
    assert table.cached_share(other, "w") < 0.01
    assert table.cached_share(story, "v") == 0


def test_the_table_is_bounded_and_forgets_what_was_used_least_recently() -> None:
    table = PrefixTable(50)
    used = Prefix(chat("used again and again"))
    for number in range(500):
        table.note(used, "w")
        table.note(Prefix(chat(f"once {number}")), f"w{number}")
        assert len(table) <= 50
    assert table.cached_share(used, "w") == 1
    assert table.cached_share(Prefix(chat("once 3")), "w3") == 0


def test_a_mark_names_the_latest_few_processes() -> None:
    table, asked = PrefixTable(50), Prefix(chat("the same for all"))
    for number in range(10):
        table.note(asked, f"w{number}")
    assert next(table.holders(asked)) == ("w9", "w8", "w7", "w6")
