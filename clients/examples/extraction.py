"""Data out of a text, held to a JSON schema while it is generated: extraction.py [text]"""

import os
import sys

from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """What is to be found."""

    name: str
    born: int
    professions: list[str]


TEXT = "Ada Lovelace, born in 1815, was a mathematician and a writer."

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
reply = client.chat.completions.parse(
    model=os.environ.get("MODEL", "mesh-demo"),
    messages=[
        {"role": "system", "content": "Extract the person of the text as JSON."},
        {"role": "user", "content": " ".join(sys.argv[1:]) or TEXT},
    ],
    response_format=Person,
    temperature=0,
    max_tokens=200,
)
person = reply.choices[0].message.parsed
assert person is not None  # the schema was kept to; a model may still have refused, or run out of tokens
print(f"{person.name}, {person.born}: {', '.join(person.professions)}")
