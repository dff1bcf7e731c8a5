"""What all pages share: the arena, the cards of models, where pictures lie, who is asking, and who listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from mesh.log import kv
from webui.arena import Arena
from webui.battle import NotNow
from webui.config import WebConfig
from webui.gateway import GatewayError
from webui.pages.shown import failure
from webui.records import ModelCard, Refused, StoreUnavailable, Visitor, VoteRefused
from webui.streams import Listeners
from webui.trust.limits import network, waiting

log = logging.getLogger(__name__)

COOKIE = "mesh_visitor"
# What a handler tells the visitor instead of failing.
TOLD = (NotNow, Refused, VoteRefused, GatewayError, StoreUnavailable)


@dataclass(frozen=True, slots=True)
class Desk:
    """See the module. Pictures are written to `folder`, from which the pages may show files."""

    config: WebConfig
    arena: Arena
    cards: Mapping[str, ModelCard]
    folder: Path
    listeners: Listeners

    async def visitor(self, request: gr.Request) -> Visitor:
        """Who asks: a name that has signed in, or the browser by its cookie. Raises Refused without either."""
        inner = request.request
        username = getattr(request, "username", None)
        secret = f"name:{username}" if username else str(inner.cookies.get(COOKIE, "")) if inner else ""
        if not secret:
            raise Refused("The arena needs a cookie to tell its visitors apart: allow it and load the page again.")
        address = network(inner.client.host) if inner and inner.client else ""
        return Visitor(await asyncio.to_thread(self.arena.store.voter_id, secret), address)


def sentence(error: Exception) -> str:
    """What to tell the visitor of one of TOLD."""
    match error:
        case NotNow() | VoteRefused():
            return error.reason
        case Refused(retry_after=seconds) if seconds:
            return f"{error.reason} Try again in {waiting(seconds)}."
        case Refused():
            return error.reason
        case GatewayError():
            return failure(error.code)
        case _:
            log.warning("the store is not available", extra=kv(error=str(error)))
            return "Nothing can be kept just now: please try again in a moment."
