"""A chat answer in one piece, gathered from the same events as a streamed one."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.answers import AnswerMessage, ChatAnswer, Choice, Logprobs, TokenLogprob, Usage
from gateway.generation import Event
from gateway.sse import finish_reason, system_fingerprint, token_logprob, usage
from mesh.v1 import inference_pb2 as pb


class ChatCollector:
    """Gathers the events of one request. `logprobs`: whether the client asked for them."""

    def __init__(self, answer_id: str, created: int, model: str, choices: int, *, logprobs: bool) -> None:
        self._id = answer_id
        self._created = created
        self._model = model
        self._fingerprint = ""
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._logprobs: list[list[TokenLogprob]] | None = [[] for _ in range(choices)] if logprobs else None
        self._reasons = ["stop"] * choices
        self._usage: Usage | None = None

    def add(self, events: Sequence[Event]) -> None:
        """Take events in order."""
        for event in events:
            if isinstance(event, pb.Delta):
                self._texts[event.choice].append(event.text)
                if self._logprobs is not None:
                    self._logprobs[event.choice] += map(token_logprob, event.logprobs)
            elif isinstance(event, pb.Started):
                self._fingerprint = system_fingerprint(event.fingerprint)
            elif isinstance(event, pb.ChoiceFinished):
                self._reasons[event.choice] = finish_reason(event.reason)
            else:
                self._usage = usage(event.usage)

    def answer(self) -> ChatAnswer:
        """The whole answer; Finished must have been added."""
        assert self._usage is not None
        choices = [
            Choice(
                index=index,
                message=AnswerMessage(content="".join(texts)),
                logprobs=Logprobs(self._logprobs[index]) if self._logprobs is not None else None,
                finish_reason=self._reasons[index],
            )
            for index, texts in enumerate(self._texts)
        ]
        return ChatAnswer(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=self._usage,
        )
