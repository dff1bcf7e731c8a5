"""From the events of one answer to messages in vLLM's words."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mesh.engine.base import ChoiceFinished, Delta, Event, FinishReason, ModelInfo, Started, TokenLogprob, TopLogprob
from mesh.vllm.v1 import engine_pb2 as vllm

_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


class _Choice:
    """What a choice has so far; log probabilities only where nothing is sent before its end."""

    __slots__ = ("ids", "logprobs")

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] | None = None


class Answer:
    """Makes the messages of one answer: chunks as they come if it is `streamed`, and a `complete` for each choice.

    `stop_token_ids` are the request's own: only they are told as what ended a choice.
    """

    def __init__(self, *, streamed: bool, stop_token_ids: Collection[int]) -> None:
        self._streamed = streamed
        self._stop_token_ids = frozenset(stop_token_ids)
        self._started = Started(0, 0)
        self._prompt_logprobs: list[TokenLogprob] = []  # not yet sent
        self._open: dict[int, _Choice] = {}

    def tell(self, event: Event, model: ModelInfo | None) -> Iterator[tuple[vllm.GenerateResponse, int]]:
        """The messages of an event, with the tokens in each."""
        match event:
            case Started():
                self._started, self._prompt_logprobs = event, event.prompt_logprobs
            case Delta() if event.token_ids:
                self._take(event)
                if self._streamed:
                    yield self._chunk(event), len(event.token_ids)
            case ChoiceFinished():
                yield self._end(event), 0
            case _:
                pass

    def abort(self) -> list[vllm.GenerateResponse]:
        """The ends of all choices that have begun and not ended; of the first if none has begun."""
        if not self._open:
            self._open[0] = _Choice()
        return [self._complete(index, "abort") for index in sorted(self._open)]

    def _take(self, event: Delta) -> None:
        choice = self._open.get(event.choice)
        if choice is None:
            choice = self._open[event.choice] = _Choice()
        choice.ids.extend(event.token_ids)
        if event.logprobs is not None and not self._streamed:
            choice.logprobs = [*(choice.logprobs or ()), *event.logprobs]

    def _chunk(self, event: Delta) -> vllm.GenerateResponse:
        wire = vllm.GenerateResponse()
        chunk = wire.chunk
        chunk.index = event.choice
        chunk.token_ids.extend(event.token_ids)
        chunk.prompt_tokens = self._started.prompt_tokens
        chunk.cached_tokens = self._started.cached_tokens
        chunk.completion_tokens = len(self._open[event.choice].ids)
        if event.logprobs is not None:
            _fill_output(chunk.output_logprobs, event.logprobs)
        self._fill_input(chunk)
        return wire

    def _end(self, event: ChoiceFinished) -> vllm.GenerateResponse:
        wire = self._complete(event.choice, _REASONS[event.reason])
        if event.stop_string is not None:
            wire.complete.matched_stop_str = event.stop_string
        elif event.stop_token_id in self._stop_token_ids:
            wire.complete.matched_token_id = event.stop_token_id
        return wire

    def _complete(self, index: int, reason: str) -> vllm.GenerateResponse:
        choice = self._open.pop(index, None) or _Choice()
        wire = vllm.GenerateResponse()
        complete = wire.complete
        complete.index = index
        complete.finish_reason = reason
        complete.output_ids.extend(choice.ids)
        complete.prompt_tokens = self._started.prompt_tokens
        complete.cached_tokens = self._started.cached_tokens
        complete.completion_tokens = len(choice.ids)
        if choice.logprobs is not None:
            _fill_output(complete.output_logprobs, choice.logprobs)
        self._fill_input(complete)
        return wire

    def _fill_input(self, wire: vllm.GenerateStreamChunk | vllm.GenerateComplete) -> None:
        """Log probabilities of the prompt, in the first message."""
        scores, self._prompt_logprobs = self._prompt_logprobs, []
        for place, score in enumerate(scores):
            value = wire.input_logprobs.token_logprobs.add()
            if place:  # nothing precedes the first
                value.value = score.logprob
            wire.input_logprobs.token_ids.append(score.token_id)
            _fill_top(wire.input_logprobs.top_logprobs.add(), score.top)


def _fill_output(wire: vllm.OutputLogProbs, logprobs: list[TokenLogprob]) -> None:
    for score in logprobs:
        wire.token_logprobs.append(score.logprob)
        wire.token_ids.append(score.token_id)
        _fill_top(wire.top_logprobs.add(), score.top)


def _fill_top(wire: vllm.TopLogProbs, top: list[TopLogprob]) -> None:
    wire.values.extend(item.logprob for item in top)
    wire.token_ids.extend(item.token_id for item in top)
