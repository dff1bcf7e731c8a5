"""A model's forward as one graph: recorded it is the model's code to the bit, compiled it gives the same answers."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from mesh.engine.base import Sampling
from mesh.engine.transformers.attention.kv_cache import KvCache
from mesh.engine.transformers.layers.prepack import prepack
from mesh.engine.transformers.layers.whole_graph import Forward
from mesh.engine.transformers.runners.packed import PackedRunner
from mesh.engine.transformers.runners.selftest import check_packed
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row, Work
from tests.model import tiny
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_key_value_heads": 4}
_PAGE, _PAGES = 16, 20
_ROWS, _MANY_PAGES, _MOST_PAGES, _MOST_STEPS = 12, 2000, 12, 120

# torch's compiler warns of torch's own code when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def as_served() -> Iterator[None]:
    """As on the engine's thread."""
    with torch.inference_mode():
        yield


def runner_of(model: PreTrainedModel) -> PackedRunner:
    assert check_packed(model, tiny.VOCAB, 256, _PAGE).reason is None
    return PackedRunner(model, KvCache(_PAGES, _PAGE, model.dtype, model.device), 2, _PAGES - 1)


def steps_of(runner: PackedRunner) -> list[torch.Tensor]:
    """Logits of a prompt, and of two tokens after it, which read what the steps before left in each layer's pages."""
    ids = prompt_of(22)
    row = Row(Work(key=0, order=0, sampling=Sampling(seed=0), prompt=ids), 0, ids[:20], 0, 0, frozenset(), slot=0)
    row.pages = [1, 2]
    found = [runner.forward(Batch([], [Chunk(row, 20, 1)])).clone()]
    for computed in (20, 21):
        row.computed = computed
        row.tokens.append(ids[computed])
        found.append(runner.forward(Batch([row], [])).clone())
    return found


def plain(graph: torch.fx.GraphModule) -> Forward:
    """The graph as it was recorded."""
    return graph


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GPT2"])
def test_the_recording_is_the_model(name: str) -> None:
    model = tiny.make_model(name)
    runner = runner_of(model)
    expected = [*runner.warm_up(200), *steps_of(runner)]
    runner.reset()
    runner.compile_whole(plain)
    # Not the model's code: it has lost its layers.
    for module in list(model.modules()):
        module._modules.clear()  # pyright: ignore[reportPrivateUsage]
    found = [*runner.warm_up(200), *steps_of(runner)]
    assert len(found) == 6
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_packed_layers_stay_what_they_are() -> None:
    model = tiny.make_model("Llama", **WIDE)
    assert prepack(model, tiny.VOCAB)
    runner = runner_of(model)
    expected = runner.warm_up(200)
    runner.compile_whole(plain)
    assert all(torch.equal(a, b) for a, b in zip(runner.warm_up(200), expected, strict=True))
    runner.forget_whole()
    assert all(torch.equal(a, b) for a, b in zip(runner.warm_up(200), expected, strict=True))


async def test_what_cannot_be_recorded_is_served_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = tiny.save(tmp_path, "Mixtral")
    async with Driver(path) as driver:
        expected = (await driver.ask(prompt_of(9), tokens=4)).ids
    with caplog.at_level(logging.WARNING):
        async with Driver(path, compile=True) as driver:
            assert (await driver.ask(prompt_of(9), tokens=4)).ids == expected
    assert "is not compiled: Expected inputs of BF16" in caplog.text


class Traffic:
    """Rows that join, go on and leave at random, some with the pages of another's prompt, as batches for a runner."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._count = 0
        self._free = list(range(1, _MANY_PAGES))
        self._slots = list(range(_ROWS))
        self.rows: list[Row] = []
        self.left: list[Row] = []  # since the last batch

    def _join(self) -> None:
        length = self._draw.randint(1, 60)
        ids = prompt_of(length, self._draw.randrange(3))
        self._count += 1
        work = Work(key=self._count, order=self._count, sampling=Sampling(seed=0), prompt=ids)
        row = Row(work, 0, ids[:], 10**6, 0, frozenset(), slot=self._slots.pop())
        shared = self._shared(row)
        fresh = -(-(length + _MOST_STEPS) // _PAGE) - len(shared)
        row.pages = shared + [self._free.pop() for _ in range(fresh)]
        row.computed = len(shared) * _PAGE
        self.rows.append(row)

    def _shared(self, row: Row) -> list[int]:
        """The pages that a row of the same beginning has computed, never the last token's."""
        pages: list[int] = []
        for other in self.rows:
            alike = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(row.tokens, other.tokens, strict=False))
            )
            full = min(alike, other.computed, len(row.tokens) - 1) // _PAGE
            pages = max(pages, other.pages[:full], key=len)
        return pages

    def batch(self) -> Batch:
        while self._slots and self._draw.random() < 0.4:
            self._join()
        rows = self._draw.sample(self.rows, k=self._draw.randint(0, len(self.rows)))
        batch = Batch([row for row in rows if row.remaining == 1], [])
        for row in rows:
            if row.remaining > 1:
                count = self._draw.randint(1, row.remaining)
                batch.prefill.append(Chunk(row, count, int(count == row.remaining)))
        return batch

    def advance(self, batch: Batch, logits: torch.Tensor) -> None:
        """Note what was computed; some rows leave. Pages are not given back: others may share them."""
        sampled = batch.sampled
        for row in batch.decode:
            row.computed += 1
        for chunk in batch.prefill:
            chunk.row.computed += chunk.count
        for row, token in zip(sampled, logits.argmax(-1), strict=True):
            row.tokens.append(int(token))
        full = {row for row in self.rows if len(row.tokens) >= len(row.pages) * _PAGE}
        self.left = [row for row in self.rows if row in full or self._draw.random() < 0.05]
        for row in self.left:
            self.rows.remove(row)
            self._slots.append(row.slot)


def test_random_mixes_are_the_models_too() -> None:
    """What a recording has kept of the step it was made from would show with other numbers of tokens and rows."""
    model = tiny.make_model("Llama", **WIDE)
    assert prepack(model, tiny.VOCAB)
    assert check_packed(model, tiny.VOCAB, 256, _PAGE).reason is None
    cache = [KvCache(_MANY_PAGES, _PAGE, model.dtype, model.device) for _ in range(2)]
    eager, recorded = (PackedRunner(model, each, _ROWS, _MOST_PAGES) for each in cache)
    recorded.compile_whole(plain)
    traffic, sizes = Traffic(1), set[tuple[int, int]]()
    for _ in range(_MOST_STEPS):
        batch = traffic.batch()
        if not batch:
            continue
        expected = eager.forward(batch).clone()
        assert torch.equal(recorded.forward(batch), expected)
        sizes.add((batch.tokens, batch.kept))
        traffic.advance(batch, expected)
        for row in traffic.left:
            eager.release(row)
            recorded.release(row)
    assert len(sizes) > 50


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
async def test_compiled_it_gives_each_row_the_answer_that_it_gets_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path, model = tiny.save(tmp_path / "model", "Llama", **WIDE)
    draw = random.Random(5)
    prompts = [prompt_of(draw.choice([1, 2, 15, 16, 17, 33, 40, 60]) + extra, extra % 2) for extra in range(16)]
    with caplog.at_level(logging.INFO):
        async with Driver(path, compile=True, max_rows=12, step_tokens=48) as driver:
            assert "compiled" in caplog.messages
            alone = [(await driver.ask(prompt, tokens=16)).ids for prompt in prompts]
            assert alone == [tiny.generate(model, prompt, 16) for prompt in prompts]
            for _ in range(30):
                await one_mix(driver, draw, prompts, alone)
            assert driver.stat("prefix_hit_tokens") > 1000


async def one_mix(driver: Driver, draw: random.Random, prompts: list[list[int]], alone: list[list[int]]) -> None:
    """Requests that join one after the other, of which some are cancelled on the way."""
    keys: list[tuple[int, int, int]] = []
    for _ in range(draw.randint(1, 24)):
        which, tokens = draw.randrange(len(prompts)), draw.randint(1, 16)
        keys.append((await driver.submit(prompts[which], tokens=tokens), which, tokens))
        for _ in range(draw.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)  # the engine steps on meanwhile
    cancelled = {key for key, _, _ in keys if draw.random() < 0.1}
    for key in cancelled:
        driver.engine.cancel(key)
    for key, which, tokens in keys:
        if key in cancelled:
            assert driver.answers[key].ids == alone[which][: len(driver.answers[key].ids)]
        else:
            assert (await driver.answer(key)).ids == alone[which][:tokens]
