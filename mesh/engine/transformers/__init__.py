"""The default engine: any model of transformers, in batches.

`engine` is the event loop's side, `thread` the thread that owns torch, `core` one step after the other, `build` what
is made at the start. The rooms, each of which knows only those before it: `attention`, `vision`, `layers`, `loading`,
`lora`, `scheduling`, `runners`, `embedding`, `parallel`. `follower` is the `engine` of a process that only computes.
"""

from __future__ import annotations

import os
from pathlib import Path

# Weights on pages of 2 MB, where Linux has them: a product reads its weights once, and with pages of 4 kB the processor
# spends a tenth to a third of that time on looking up where the next one lies. PyTorch asks for them if told so before
# it takes its first memory, so before it is imported.
if Path("/sys/kernel/mm/transparent_hugepage").exists():
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
