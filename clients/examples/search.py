"""The passages that are nearest to a question, by embeddings: search.py FILE QUESTION

A passage is a paragraph. All are embedded in one request; for more than some thousands, keep their vectors.
"""

import os
import sys
from pathlib import Path

import numpy as np
from openai import OpenAI

SHOWN = 3

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
model = os.environ.get("MODEL", "mesh-demo")
file, question = sys.argv[1:]
passages = [part.strip() for part in Path(file).read_text(encoding="utf-8").split("\n\n") if part.strip()]
reply = client.embeddings.create(model=model, input=[question, *passages])
vectors = np.array([item.embedding for item in reply.data])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
scores = vectors[1:] @ vectors[0]
for place in np.argsort(-scores)[:SHOWN]:
    print(f"{scores[place]:.3f}  {passages[place]}")
