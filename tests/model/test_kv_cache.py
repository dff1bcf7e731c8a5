"""Pages that follow one another are read where they lie, others are gathered: the same keys and values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mesh.engine.transformers.attention.kv_cache import KvCache, LayerShape, index_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("pages", "copied"), [([3, 4, 5, 6], False), ([7], False), ([3, 4, 6, 7], True), ([5, 4, 3, 2], True)], ids=str
)
def test_only_scattered_pages_are_copied(pages: list[int], copied: bool) -> None:
    cache = KvCache(9, 4, torch.float32, CPU)
    cache.reserve({0: LayerShape(heads=2, key_size=8, value_size=6)})
    layer = cache.layer(0, torch.empty(0), torch.empty(0))
    layer.keys.normal_()
    layer.values.normal_()
    keys, values = cache.read(layer, index_of(np.array(pages), CPU), rows=1)
    for found, source in ((keys, layer.keys), (values, layer.values)):
        wanted = torch.cat([source[4 * page : 4 * page + 4] for page in pages])
        assert torch.equal(found[0], wanted)
        inside = source.data_ptr() <= found.data_ptr() < source.data_ptr() + source.nbytes
        assert inside is not copied
