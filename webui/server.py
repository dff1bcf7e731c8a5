"""The life of the web server: its socket, its store, its pages."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from mesh.config import ConfigError
from mesh.log import kv
from webui.app import web_app
from webui.arena import Arena
from webui.config import WebConfig
from webui.gateway import Gateway, GatewayError, api_url
from webui.leaderboard.live import LiveLeaderboard
from webui.pages.desk import Desk
from webui.records import ModelCard, Terms
from webui.sampling import PairSampler, SamplingRules
from webui.scratch import Scratch
from webui.store.store import SqlStore, open_store
from webui.store.tallies import SqlVotes
from webui.streams import Listeners
from webui.traffic import TrafficLimits
from webui.trust.accounts import Accounts
from webui.trust.gate import ArenaGate, Limits
from webui.trust.identity import IdentityWatch
from webui.trust.moderation import Moderation, ModerationEndpoint, WordList

log = logging.getLogger(__name__)

# Pages that still follow an answer when the server is asked to end.
_GRACE_SECONDS = 3
_MIB = 1024**2


class AddressTaken(Exception):
    """The server cannot listen there; the message is one sentence."""


def serve(config: WebConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises AddressTaken, StoreUnavailable, and ConfigError."""
    cards = read_cards(config.cards)
    with (
        closing(_listen(config.host, config.port)) as listener,
        closing(open_store(config.where)) as store,
        tempfile.TemporaryDirectory(prefix="mesh-webui-") as folder,
    ):
        sampler = PairSampler(SamplingRules(config.sampling_floor, config.boosts, frozenset(config.outage)))
        live = LiveLeaderboard(SqlVotes(store.database), interval=config.leaderboard_interval, on_counts=sampler.learn)
        live.start()
        try:
            with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                scratch = Scratch(Path(folder), config.upload_space * _MIB)
                runner.run(_serve(config, listener, store, sampler, live, cards, scratch))
        finally:
            live.stop()


def read_cards(path: Path | None) -> dict[str, ModelCard]:
    """The cards of models, by name. Raises ConfigError."""
    if path is None:
        return {}
    try:
        return {card.name: card for card in msgspec.json.decode(path.read_bytes(), type=list[ModelCard])}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--cards: {path} cannot be used: {error}") from None


async def _serve(
    config: WebConfig,
    listener: socket.socket,
    store: SqlStore,
    sampler: PairSampler,
    live: LiveLeaderboard,
    cards: Mapping[str, ModelCard],
    scratch: Scratch,
) -> None:
    os.environ["GRADIO_TEMP_DIR"] = str(scratch.uploads)
    identity = IdentityWatch(cards.values())

    def learn(names: Sequence[str]) -> None:
        identity.learn([*cards.values(), *(ModelCard(name=name) for name in names if name not in cards)])

    gateway = Gateway(config.gateway, config.api_key, on_models=learn)
    gate = ArenaGate(_limits(config), identity, _moderation(config))
    terms = _terms(config.terms)
    arena = Arena(gateway, store, sampler, gate, config.parameters, on_vote=live.news, terms=terms)
    traffic = TrafficLimits(uploads=config.uploads_per_hour, upload_bytes=config.upload_mib_per_hour * _MIB)
    accounts = Accounts(dict(config.accounts), store.secret("sessions")) if config.accounts else None
    app = web_app(Desk(config, arena, cards, scratch.shown, Listeners()), live, scratch, traffic, accounts)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # see webui/http.py
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    with suppress(GatewayError):  # which is logged: it may come later
        await gateway.models()
    host, port = listener.getsockname()[:2]
    log.info("web pages listening", extra=kv(url=f"http://{host}:{port}", gateway=config.gateway, store=config.where))
    await server.serve(sockets=[listener])


def _terms(path: Path | None) -> Terms | None:
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--terms: {path} cannot be used: {error}") from None
    if not text:
        raise ConfigError(f"--terms: {path} is empty")
    return Terms(text)


def _limits(config: WebConfig) -> Limits:
    return Limits(prompts_per_minute=config.prompts_per_minute, votes_per_day=config.votes_per_day)


def _moderation(config: WebConfig) -> Moderation | None:
    if config.unwanted_words:
        return WordList.read(config.unwanted_words)
    if config.moderation is None:
        return None
    if config.moderation_url is None:
        return ModerationEndpoint(api_url(config.gateway), config.api_key, config.moderation)
    return ModerationEndpoint(config.moderation_url, config.moderation_key, config.moderation)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise AddressTaken(f"cannot listen on {host}:{port}: {error.strerror}") from None
