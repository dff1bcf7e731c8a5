"""LlamaIndex, by its class for APIs like OpenAI's."""

from __future__ import annotations

import os

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

BASE = os.environ["OPENAI_BASE_URL"]
MODEL = OpenAILike(
    model="echo", api_base=BASE, api_key="none", is_chat_model=True, is_function_calling_model=True, max_retries=0
)


class Place(BaseModel):
    """A place."""

    city: str
    people: int


def look(city: str) -> str:
    """The weather somewhere."""
    return f"18 degrees in {city}"


def says(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


async def test_streams() -> None:
    pieces = [part.delta for part in MODEL.stream_chat(says("The sea is blue."))]
    assert len(pieces) > 1
    assert "".join(piece or "" for piece in pieces) == "The sea is blue."
    later = [part.delta async for part in await MODEL.astream_chat(says("The sea is blue."))]
    assert later == pieces
    assert MODEL.complete("The sea.").text == "The sea."


def test_calls_tools() -> None:
    tool = FunctionTool.from_defaults(look)
    call = '<tool_call>\n{"name": "look", "arguments": {"city": "Bern"}}\n</tool_call>'
    done = MODEL.predict_and_call([tool], call)
    assert done.response == "18 degrees in Bern"
    forced = MODEL.chat_with_tools([tool], "Weather?", tool_required=True)
    (asked,) = MODEL.get_tool_calls_from_response(forced)
    assert (asked.tool_name, list(asked.tool_kwargs)) == ("look", ["city"])


def test_answers_of_a_schema() -> None:
    assert isinstance(MODEL.as_structured_llm(Place).chat(says("Where?")).raw, Place)


def test_embeddings() -> None:
    embed = OpenAILikeEmbedding(model_name="echo", api_base=BASE, api_key="none")
    assert len(embed.get_text_embedding("a")) == 64
