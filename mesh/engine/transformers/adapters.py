"""The adapters of a served model, on the event loop's thread: which there are, loading one more, letting one go.

The engine's thread is never involved: a request brings its adapter along, and the step that computes its rows applies
it. So loading costs running rows nothing but the share of the machine that it uses, and an adapter that was unloaded
lives on until the last row that has it is over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mesh.engine.base import ModelInfo
from mesh.engine.transformers.build import Served, chat_capabilities
from mesh.engine.transformers.loading.source import find_adapter
from mesh.engine.transformers.lora.config import AdapterSource
from mesh.engine.transformers.lora.files import read_adapter
from mesh.engine.transformers.lora.hooks import Adapter
from mesh.engine.transformers.thread import beside
from mesh.errors import ErrorKind, MeshError, invalid, unsupported
from mesh.log import kv

log = logging.getLogger(__name__)

# What an adapter for text generation does not do.
_BASE_ONLY = frozenset(("embed", "score"))


class Adapters:
    """All adapters of `base`, at most `limit`."""

    def __init__(self, base: Served, limit: int) -> None:
        self._base = base
        self._limit = limit
        self._loaded: dict[str, Served] = {}
        self._loading: set[str] = set()

    @property
    def infos(self) -> Sequence[ModelInfo]:
        """What the adapters are, as models."""
        return [served.info for served in self._loaded.values()]

    def find(self, name: str) -> Served | None:
        """The base model as changed by an adapter."""
        return self._loaded.get(name)

    async def load(self, source: AdapterSource) -> ModelInfo:
        """Read, check and serve an adapter. Raises MeshError."""
        self._check(source.name)
        self._loading.add(source.name)
        try:
            adapter = await beside(partial(self._read, source))
        finally:
            self._loading.discard(source.name)
        self._loaded[source.name] = served = self._served(adapter)
        log.info(
            "adapter loaded",
            extra=kv(adapter=adapter.name, path=source.path, layers=len(adapter.layers), parameters=adapter.parameters),
        )
        return served.info

    def unload(self, name: str) -> None:
        """Take no more requests for an adapter; those that run go on. Raises model_not_found."""
        if self._loaded.pop(name, None) is None:
            known = ", ".join(f"'{other}'" for other in self._loaded) or "none"
            raise MeshError(
                ErrorKind.MODEL_NOT_FOUND, f"adapter '{name}' is not loaded here; loaded: {known}", param="name"
            )
        log.info("adapter unloaded", extra=kv(adapter=name))

    def _check(self, name: str) -> None:
        if not name or not name.isprintable():
            raise invalid("name", f"'name' of an adapter must be printable text, not {name!r}")
        if name == self._base.info.name:
            raise invalid("name", f"'name' of an adapter must not be '{name}', which is the base model's")
        if name in self._loaded or name in self._loading:
            raise invalid("name", f"adapter '{name}' is loaded already: unload it first")
        if isinstance(self._base.lora, str):
            raise unsupported("name", f"model '{self._base.info.name}' takes no adapters: {self._base.lora}")
        count = len(self._loaded) + len(self._loading)
        if count >= self._limit:
            raise MeshError(
                ErrorKind.OVERLOADED, f"'max_loras' is {self._limit}, and {count} adapters are loaded: unload one first"
            )

    def _read(self, source: AdapterSource) -> Adapter:
        base = self._base.lora
        assert not isinstance(base, str), "checked before"
        folder = find_adapter(source.path, log.info)
        try:
            return read_adapter(source.name, folder, base)
        except MeshError:
            raise
        except Exception as error:
            log.exception("an adapter could not be loaded")
            text = f"the adapter in '{folder}' could not be loaded: {type(error).__name__}: {error}"
            raise MeshError(ErrorKind.ENGINE_FAILED, text) from None

    def _served(self, adapter: Adapter) -> Served:
        base = self._base
        chat = base.chat if adapter.chat_template is None else base.chat.with_template(adapter.chat_template)
        chats = {"chat", "tools"}
        info = replace(
            base.info,
            name=adapter.name,
            base=base.info.name,
            fingerprint=adapter.fingerprint,
            capabilities=(base.info.capabilities - _BASE_ONLY - chats) | chat_capabilities(chat),
            parameters=adapter.parameters,
            dialect=chat.dialect,
        )
        return replace(base, info=info, chat=chat, adapter=adapter)
