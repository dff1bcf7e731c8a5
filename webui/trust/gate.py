"""Says what is let in, and marks what should not count (`webui.records.Gate`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mesh.log import kv
from webui.records import Answer, Battle, Flag, Picture, Refused, Turn, Visitor
from webui.traits.refusal import refuses
from webui.trust.identity import IdentityWatch
from webui.trust.images import ImageLimits, admit
from webui.trust.limits import ADDRESS_FACTOR, DailyCount, Quota
from webui.trust.moderation import Moderation, ModerationUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one visitor may do, and one address behind which there are many visitors, `address_factor` times as much."""

    prompts_per_minute: float = 20
    prompt_burst: int = 10
    votes_per_day: int = 200
    address_factor: int = ADDRESS_FACTOR
    prompt_characters: int = 30_000
    image: ImageLimits = field(default_factory=ImageLimits)


class ArenaGate:
    """One per process: the counts are in its memory, and start anew with it; but a visitor's votes the store counts."""

    def __init__(
        self, limits: Limits | None = None, identity: IdentityWatch | None = None, moderation: Moderation | None = None
    ) -> None:
        self._limits = limits = limits or Limits()
        self.identity = identity or IdentityWatch()
        self._moderation = moderation
        self._prompts = Quota(limits.prompts_per_minute, limits.prompt_burst, limits.address_factor)
        self._address_votes = DailyCount(limits.votes_per_day * limits.address_factor)

    def admit_prompt(self, visitor: Visitor, text: str) -> None:
        """Count a prompt. Raises Refused when it is too long or comes too soon."""
        if len(text) > self._limits.prompt_characters:
            raise Refused(
                f"The prompt has {len(text):,} characters; at most {self._limits.prompt_characters:,} are taken."
            )
        wait = self._prompts.take(visitor.voter, visitor.address)
        if wait:
            raise Refused(f"At most {self._limits.prompts_per_minute:g} prompts a minute are taken.", wait)

    def admit_vote(self, visitor: Visitor, before: int) -> None:
        """Count a vote, after so many of the visitor today. Raises Refused when there are no more for today."""
        limit = self._limits.votes_per_day
        wait = self._address_votes.tomorrow() if before >= limit else self._address_votes.take(visitor.address)
        if wait:
            raise Refused(f"At most {limit} votes a day are taken: thank you.", wait)

    def admit_image(self, visitor: Visitor, data: bytes) -> Picture:
        """The image, encoded anew. Raises Refused when it is too large in bytes or pixels, or is none."""
        del visitor  # a picture comes with a prompt, which is counted
        return admit(data, self._limits.image)

    async def moderate(self, texts: Sequence[str]) -> None:
        """Look at prompts before they are sent. Raises Refused, also while nobody can look at them."""
        if self._moderation is None:
            return
        try:
            reasons = await self._moderation.flagged(texts)
        except ModerationUnavailable as error:
            log.warning("no moderation", extra=kv(why=str(error)))
            raise Refused("Prompts cannot be checked at the moment.", 30) from None
        if any(reasons):
            raise Refused("This prompt breaks the rules of the arena.")

    async def inspect(self, battle: Battle, turn: Turn) -> Sequence[Flag]:
        """The marks that a finished turn deserves: both answers are looked at."""
        texts = [answer.text for answer in turn.answers]
        flags = [flag for side, answer in zip(_SIDES, turn.answers, strict=False) for flag in _own_flags(side, answer)]
        if battle.mode == "battle":
            flags += await asyncio.to_thread(self.identity.flags, battle.models, texts)
        return flags + await self._unwanted(texts)

    async def _unwanted(self, texts: Sequence[str]) -> list[Flag]:
        if self._moderation is None:
            return []
        try:
            reasons = await self._moderation.flagged(texts)
        except ModerationUnavailable as error:
            log.warning("no moderation of answers", extra=kv(why=str(error)))
            return [Flag("report", None, "moderation was not available")]
        return [Flag("moderation", side, reason) for side, reason in zip(_SIDES, reasons, strict=False) if reason]


_SIDES: tuple[Literal["a"], Literal["b"]] = ("a", "b")


def _own_flags(side: Literal["a", "b"], answer: Answer) -> list[Flag]:
    """What an answer says of itself: broken, cut off, or declining."""
    if answer.finish == "error":
        return [Flag("error", side, answer.error)]
    flags = [Flag("unfinished", side, answer.finish)] if answer.finish in ("length", "stopped") else []
    if answer.finish == "content_filter" or refuses(answer.text):
        flags.append(Flag("refusal", side))
    return flags
