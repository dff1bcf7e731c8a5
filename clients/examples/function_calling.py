"""The model calls functions until it has its answer: function_calling.py [question]"""

import json
import os
import sys
from collections.abc import Callable

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MOST_ROUNDS = 5
RAINFALL = {"Bergen": 2250, "Kairo": 18, "Wien": 640}  # millimetres a year


def rainfall(city: str) -> str:
    """What a function of yours would look up."""
    return f"{RAINFALL[city]} mm" if city in RAINFALL else f"unknown; known are {', '.join(RAINFALL)}"


def add(numbers: list[float]) -> str:
    """Sums are not what language models are for."""
    return str(sum(numbers))


FUNCTIONS: dict[str, Callable[..., str]] = {"rainfall": rainfall, "add": add}
CITY: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NUMBERS: dict[str, object] = {
    "type": "object",
    "properties": {"numbers": {"type": "array", "items": {"type": "number"}}},
    "required": ["numbers"],
}
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {"name": "rainfall", "description": "Rain that falls in a city in a year.", "parameters": CITY},
    },
    {
        "type": "function",
        "function": {"name": "add", "description": "The sum of numbers.", "parameters": NUMBERS},
    },
]


def call(name: str, arguments: str) -> str:
    """The result, or what is wrong, in words: the model may then try again."""
    try:
        return FUNCTIONS[name](**json.loads(arguments))
    except (KeyError, TypeError, ValueError) as error:
        return f"error: {error!r}"


def answer(client: OpenAI, model: str, question: str) -> str:
    """Ask, call what is to be called, and ask again."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    for _ in range(MOST_ROUNDS):
        reply = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, temperature=0)
        message = reply.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.to_dict())  # pyright: ignore[reportArgumentType]
        for asked in message.tool_calls:
            if asked.type != "function":
                continue
            result = call(asked.function.name, asked.function.arguments)
            print(f"{asked.function.name}({asked.function.arguments}) = {result}")
            messages.append({"role": "tool", "tool_call_id": asked.id, "content": result})
    return f"(no answer within {MOST_ROUNDS} rounds)"


if __name__ == "__main__":
    openai = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    question = " ".join(sys.argv[1:]) or "How much rain falls in Bergen in a year?"
    print(answer(openai, os.environ.get("MODEL", "mesh-demo"), question))
