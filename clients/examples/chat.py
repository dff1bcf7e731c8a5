"""A conversation of two turns, streamed: chat.py [first question] [second question]"""

import os
import sys

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
model = os.environ.get("MODEL", "mesh-demo")
messages: list[ChatCompletionMessageParam] = []
for question in sys.argv[1:] or ["Hello! What can you do?", "Tell me a story about a fox."]:
    messages.append({"role": "user", "content": question})
    answer = ""
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True, temperature=0):
        piece = chunk.choices[0].delta.content or ""
        print(piece, end="", flush=True)
        answer += piece
    print()
    messages.append({"role": "assistant", "content": answer})
