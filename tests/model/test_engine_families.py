"""Every architecture answers as transformers' generate does: packed where that is exact, else row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from tests.model import tiny
from tests.model.driver import Driver, prompt_of

Saved = tuple[str, PreTrainedModel]
LENGTHS = (13, 5, 21, 40)
TOKENS = 12

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", [*tiny.PACKED, *tiny.PER_SEQUENCE])
async def test_family(saved: Callable[[str], Saved], name: str) -> None:
    path, model = saved(name)
    async with Driver(path, step_tokens=16) as driver:
        assert driver.engine.models[0].execution == ("packed" if name in tiny.PACKED else "per_sequence")
        keys: list[int] = []
        for index, length in enumerate(LENGTHS):
            keys.append(await driver.submit(prompt_of(length, index), tokens=TOKENS))
            await driver.until_tokens(keys[0], 2 * index + 1)
        for index, (key, length) in enumerate(zip(keys, LENGTHS, strict=True)):
            assert (await driver.answer(key)).ids == tiny.generate(model, prompt_of(length, index), TOKENS), length
        assert driver.stat("kv_pages_used") == 0
