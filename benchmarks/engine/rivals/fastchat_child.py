"""FastChat's generation loop as its model worker calls it: one request after the other, a piece each two tokens.

Run as a script: fastchat_child.py FOLDER THREADS CONTEXT
"""

from __future__ import annotations

import sys
from importlib import import_module
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from child import Batch, serve

_INTERVAL = 2  # tokens between two pieces, as its model worker has it


def start() -> Batch:
    """Load the model."""
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    folder, threads, context = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    return Runner(model, tokenizer, int(context))


class _Ids:
    """A tokenizer that takes ids for a prompt, keeps the ids that it decodes, and knows no end of turn."""

    eos_token_id = -1

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.ids: list[int] = []

    def __call__(self, prompt: list[int]) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(prompt))

    def decode(self, ids: list[int], **options: Any) -> str:
        self.ids = list(ids)
        return self._tokenizer.decode(ids, **options)


class Runner:
    """Batches, one prompt at a time."""

    def __init__(self, model: Any, tokenizer: Any, context: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._context = context

    def __call__(self, prompts: list[list[int]], new_tokens: int, late: dict[str, Any] | None) -> dict[str, Any]:
        assert late is None, "not taken"
        begin = perf_counter()
        answers = [self._one(prompt, new_tokens, begin) for prompt in prompts]
        wall = perf_counter() - begin
        return {"rows": [ids for ids, _ in answers], "times": [times for _, times in answers], "wall": wall}

    def _one(self, prompt: list[int], new_tokens: int, begin: float) -> tuple[list[int], list[float]]:
        generate_stream: Any = import_module("fastchat.serve.inference").generate_stream
        tokenizer = _Ids(self._tokenizer)
        params = {"prompt": prompt, "temperature": 0.0, "max_new_tokens": new_tokens, "echo": False}
        times: list[float] = []
        for piece in generate_stream(self._model, tokenizer, params, "cpu", self._context, _INTERVAL):
            del piece  # its own count of tokens is one short at the end
            times += [perf_counter() - begin] * (len(tokenizer.ids) - len(times))
        return tokenizer.ids, times


if __name__ == "__main__":
    serve(start)
