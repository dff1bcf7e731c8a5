"""A chat answer in one piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from gateway.openai.answers import (
    AnswerCall,
    AnswerMessage,
    CalledFunction,
    ChatAnswer,
    Choice,
    PromptLogprobs,
)
from gateway.openai.collect import Collector
from gateway.openai.logprobs import ChatLogprobs
from gateway.openai.parts import ChoiceReader, PartOptions, choice_readers
from gateway.openai.sse import usage
from gateway.openai.token_ids import TokenIds
from gateway.routing.events import Delta
from mesh.dialects import Call, Content, Part, Reasoning
from mesh.v1 import inference_pb2 as pb


class _Message:
    """The parts of one choice, gathered."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[str, list[str]]] = []

    def add(self, parts: Sequence[Part]) -> None:
        """Take parts in order."""
        for part in parts:
            if isinstance(part, Content):
                self.content.append(part.text)
            elif isinstance(part, Reasoning):
                self.reasoning.append(part.text)
            elif isinstance(part, Call):
                self.calls.append((part.name, []))
            else:
                self.calls[-1][1].append(part.text)


class ChatCollector(Collector[ChatLogprobs]):
    """Gathers a chat answer."""

    def __init__(
        self,
        answer_id: str,
        created: int,
        model: str,
        choices: int,
        *,
        logprobs: Sequence[ChatLogprobs] | None = None,
        prompt_logprobs: Callable[[int], PromptLogprobs] | None = None,
        token_ids: TokenIds | None = None,
        options: PartOptions,
        reasoning_fields: Sequence[str],
    ) -> None:
        """`reasoning_fields`: the names by which reasoning goes."""
        super().__init__(
            answer_id,
            created,
            model,
            choices,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            token_ids=token_ids,
        )
        self._options = options
        self._reasoning_fields = reasoning_fields
        self._readers: list[ChoiceReader] | None = None
        self._messages = [_Message() for _ in range(choices)]

    def _begin(self, started: pb.Started) -> None:
        self._readers = choice_readers(self._options, started, self._id, len(self._messages))

    def _take(self, delta: Delta) -> None:
        message = self._messages[delta.choice]
        message.add([Content(delta.text)] if self._readers is None else self._readers[delta.choice].take(delta))

    def answer(self) -> ChatAnswer:
        """The whole answer; Finished must have been added."""
        assert self._counts is not None
        choices = [self._choice(index) for index in range(len(self._messages))]
        return ChatAnswer(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage(self._counts, sum(reader.reasoning_tokens for reader in self._readers or ())),
            prompt_logprobs=self.prompt_logprobs(0),
            prompt_token_ids=self.prompt_token_ids(0),
        )

    def _choice(self, index: int) -> Choice:
        message, reason = self._messages[index], self._reasons[index]
        calls: list[AnswerCall] = []
        if self._readers is not None:
            reader = self._readers[index]
            message.add(reader.finish())
            reason = reader.finish_reason(reason)
            calls = [
                AnswerCall(id=reader.call_id(place), function=CalledFunction(name, "".join(arguments)))
                for place, (name, arguments) in enumerate(message.calls)
            ]
        return Choice(
            index=index,
            message=self._message(message, calls),
            logprobs=self._logprobs[index].take() if self._logprobs is not None else None,
            finish_reason=reason,
            token_ids=self.token_ids(index),
        )

    def _message(self, message: _Message, calls: list[AnswerCall]) -> AnswerMessage:
        content, reasoning = "".join(message.content), "".join(message.reasoning)
        fields = self._reasoning_fields if reasoning else ()
        earlier = self._options.functions
        return AnswerMessage(
            content=content or (None if self._options.tools is not None else ""),
            reasoning_content=reasoning if "reasoning_content" in fields else msgspec.UNSET,
            reasoning=reasoning if "reasoning" in fields else msgspec.UNSET,
            tool_calls=(calls or msgspec.UNSET) if not earlier else msgspec.UNSET,
            function_call=calls[0].function if earlier and calls else msgspec.UNSET,
        )
