"""An answer in one piece, gathered from the same events as a streamed one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from gateway.openai.answers import CompletionAnswer, PromptLogprobs, TextChoice
from gateway.openai.logprobs import CompletionLogprobs, LogprobBuffer
from gateway.openai.sse import finish_reason, system_fingerprint, usage
from gateway.openai.token_ids import TokenIds
from gateway.routing.events import Delta, Event
from mesh.v1 import inference_pb2 as pb

Buffer = TypeVar("Buffer", bound=LogprobBuffer)


class Collector(Generic[Buffer]):
    """Gathers the events of one request; subclasses say what the answer looks like.

    `logprobs`, one for each choice, `prompt_logprobs`, of a choice's prompt, and `token_ids`: if the client asked for
    them.
    """

    def __init__(
        self,
        answer_id: str,
        created: int,
        model: str,
        choices: int,
        *,
        logprobs: Sequence[Buffer] | None = None,
        prompt_logprobs: Callable[[int], PromptLogprobs] | None = None,
        token_ids: TokenIds | None = None,
    ) -> None:
        self._id = answer_id
        self._created = created
        self._model = model
        self._fingerprint = ""
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs
        self._token_ids = token_ids
        self._reasons = ["stop"] * choices
        self._counts: pb.Usage | None = None

    def add(self, events: Sequence[Event]) -> None:
        """Take events in order."""
        for event in events:
            if isinstance(event, Delta):
                self._take(event)
                if self._token_ids is not None:
                    self._token_ids.add(event)
                if self._logprobs is not None:
                    self._logprobs[event.choice].add(event.logprobs)
            elif isinstance(event, pb.Started):
                self._fingerprint = system_fingerprint(event.fingerprint)
                self._begin(event)
            elif isinstance(event, pb.ChoiceFinished):
                self._reasons[event.choice] = finish_reason(event.reason)
            else:
                self._counts = event.usage

    def _begin(self, started: pb.Started) -> None:
        """The answer begins."""

    def _take(self, delta: Delta) -> None:
        self._texts[delta.choice].append(delta.text)

    def prompt_logprobs(self, choice: int) -> PromptLogprobs | msgspec.UnsetType:
        """Those of a choice's prompt, for the answer."""
        return msgspec.UNSET if self._prompt_logprobs is None else self._prompt_logprobs(choice)

    def token_ids(self, choice: int) -> list[int] | msgspec.UnsetType:
        """Those of a choice, for the answer."""
        return msgspec.UNSET if self._token_ids is None else self._token_ids.take(choice)

    def prompt_token_ids(self, choice: int) -> list[int] | msgspec.UnsetType:
        """Those of a choice's prompt, for the answer."""
        return msgspec.UNSET if self._token_ids is None else self._token_ids.prompt(choice)


class CompletionCollector(Collector[CompletionLogprobs]):
    """Gathers a text completion."""

    def answer(self) -> CompletionAnswer:
        """The whole answer; Finished must have been added."""
        assert self._counts is not None
        choices = [
            TextChoice(
                text="".join(texts),
                index=index,
                logprobs=self._logprobs[index].take() if self._logprobs is not None else None,
                finish_reason=self._reasons[index],
                prompt_logprobs=self.prompt_logprobs(index),
                token_ids=self.token_ids(index),
                prompt_token_ids=self.prompt_token_ids(index),
            )
            for index, texts in enumerate(self._texts)
        ]
        return CompletionAnswer(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage(self._counts),
        )
