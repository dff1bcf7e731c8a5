"""From tokens to events: what one request reports, on the event loop's thread.

Invariant that makes failover exact: the text released with a token is a pure function of the request and of the
token ids up to it, the last token of a choice releasing everything held back. Replaying resumed ids therefore tells
exactly which text the client already has.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.engine.base import (
    Chat,
    ChoiceFinished,
    Delta,
    Event,
    Finished,
    FinishReason,
    Progress,
    Request,
    Sampling,
    Started,
    Text,
    TokenLogprob,
    TopLogprob,
)
from mesh.engine.text import Codec, Detokenizer, StopMatcher, StopStrings
from mesh.errors import ErrorKind, MeshError, invalid

# Tokens of the prompt that its end is told by.
_PROMPT_END = 16

RawLogprob = tuple[float, Sequence[tuple[int, float]]]
"""A chosen token's logprob and the most likely (token id, logprob), most likely first."""


def completion_limit(sampling: Sampling, prompt_tokens: int, context_length: int) -> int:
    """Most tokens that a completion may have: max_tokens, bounded by the end of the context.

    Raises context_length_exceeded when the prompt leaves no room for a single token.
    """
    room = context_length - prompt_tokens
    if room < 1:
        raise MeshError(
            ErrorKind.CONTEXT_LENGTH_EXCEEDED,
            # Clients know this mistake by these words, OpenAI's: "this model's maximum context length is".
            f"the prompt has {prompt_tokens} tokens, which leaves no room for an answer: this model's maximum context "
            f"length is {context_length} tokens",
            param="prompt",
        )
    return room if sampling.max_tokens is None else min(sampling.max_tokens, room)


def ending_ids(sampling: Sampling, eos_token_ids: Sequence[int]) -> frozenset[int]:
    """The tokens that end a choice once it has `min_tokens` tokens before them."""
    ids = frozenset(sampling.stop_token_ids)
    return ids if sampling.ignore_eos else ids.union(eos_token_ids)


def check_token_ids(sampling: Sampling, vocab_size: int) -> None:
    """Refuse options that name tokens outside the vocabulary."""
    for param, ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                raise invalid(param, f"'{param}' names token {token_id}: must be between 0 and {vocab_size - 1}")


def token_logprob(codec: Codec, token_id: int, raw: RawLogprob) -> TokenLogprob:
    """The event form of a log probability."""
    top = [TopLogprob(other, logprob, codec.token_bytes(other)) for other, logprob in raw[1]]
    return TokenLogprob(token_id, raw[0], codec.token_bytes(token_id), top)


class _Choice:
    """How far one completion has come."""

    __slots__ = ("count", "detokenizer", "echo", "ended", "matcher")

    def __init__(self, detokenizer: Detokenizer, matcher: StopMatcher | None, echo: str) -> None:
        self.detokenizer = detokenizer
        self.matcher = matcher
        self.echo = echo
        self.count = 0
        self.ended = False


class OutputTracker:
    """Turns the tokens of one request into its events. Raises context_length_exceeded or invalid_request when built.

    The engine appends events of all requests of a step to one list. Order of calls: `started` once, then `push` per
    token; `finished` tells when nothing more is to come. The engine may end a row by itself when its newest token is
    in `ending` (at least `min_tokens` tokens being before it) or when it has `limit` tokens: the tracker agrees.
    """

    def __init__(
        self,
        request: Request,
        codec: Codec,
        *,
        prompt_ids: Sequence[int],
        eos_token_ids: Sequence[int],
        context_length: int,
        arrived: float,
        template_stops: Sequence[str] = (),
    ) -> None:
        """`arrived` and every `now` below are times of time.monotonic(), in seconds. `template_stops` are stop strings
        besides the request's own."""
        self.key = request.key
        self.limit = completion_limit(request.sampling, len(prompt_ids), context_length)
        self.ending = ending_ids(request.sampling, eos_token_ids)
        self.finished = False
        self._request = request
        self._sampling = request.sampling
        self._codec = codec
        self._prompt_ids = prompt_ids
        self._template_stops = template_stops
        self._arrived = arrived
        self._cached_tokens = 0
        self._start = self._first = self._last = arrived
        self._fresh = 0
        self._resumed_ends: list[ChoiceFinished] = []
        self._choices = self._open_choices()
        self._live = sum(not choice.ended for choice in self._choices)

    def _open_choices(self) -> list[_Choice]:
        sampling, request = self._sampling, self._request
        stops = StopStrings(sampling.stop, self._template_stops) if sampling.stop or self._template_stops else None
        context = self._context()
        echo = self._echo_text() if request.output.echo else ""
        choices: list[_Choice] = []
        for index in range(sampling.n):
            detokenizer = self._codec.detokenizer(
                keep_special_tokens=sampling.keep_special_tokens, kept_tokens=sampling.kept_tokens, context=context
            )
            choice = _Choice(detokenizer, StopMatcher(stops) if stops else None, echo)
            choices.append(choice)
            if progress := request.resume.get(index):
                self._replay(index, choice, progress)
        return choices

    def _context(self) -> Sequence[int]:
        """The tokens that the text continues: those of the prompt, unless the answer is a turn of its own."""
        prompt = self._request.prompt
        own_turn = isinstance(prompt, Chat) and not prompt.continue_final_message
        return () if own_turn else self._prompt_ids

    def _echo_text(self) -> str:
        prompt = self._request.prompt
        if isinstance(prompt, Text):
            return prompt.text
        return self._codec.decode(self._prompt_ids, keep_special_tokens=self._sampling.keep_special_tokens)

    def _replay(self, index: int, choice: _Choice, progress: Progress) -> None:
        for token_id in progress.token_ids:
            if choice.ended:
                raise invalid("resume", f"'resume' of choice {index} holds tokens after the end of the choice")
            end = self._advance(index, choice, token_id)[1]
            if end is not None:
                choice.ended = True
                self._resumed_ends.append(end)
        if progress.finished:
            # The client has its end already.
            self._resumed_ends = [end for end in self._resumed_ends if end.choice != index]
            choice.ended = True

    @property
    def open_choices(self) -> list[int]:
        """The choices that still need tokens."""
        return [index for index, choice in enumerate(self._choices) if not choice.ended]

    def ended(self, choice: int) -> bool:
        """Whether a choice is over: `push` drops what comes after."""
        return self._choices[choice].ended

    def count(self, choice: int) -> int:
        """Tokens of a choice so far, resumed ones included."""
        return self._choices[choice].count

    def started(
        self,
        events: list[Event],
        now: float,
        *,
        cached_tokens: int = 0,
        prompt_scores: Sequence[RawLogprob] | None = None,
    ) -> None:
        """The first step that works on the request, or, when log probabilities of the prompt are reported, the one that
        has them all; `prompt_scores` are those from its second token on. Also reports choices whose resumed tokens had
        already ended.
        """
        self._start = now
        self._cached_tokens = cached_tokens
        prompt_ids = self._prompt_ids if self._request.output.prompt_token_ids else ()
        scored = [] if prompt_scores is None else self._prompt_logprobs(prompt_scores)
        prompt_end = self._prompt_end() if self._request.output.prompt_end else None
        events.append(
            Started(self.key, len(self._prompt_ids), cached_tokens, scored, prompt_ids, prompt_end=prompt_end)
        )
        events.extend(self._resumed_ends)
        if self._live == 0:
            self._finish(events)

    def _prompt_end(self) -> str:
        return self._codec.decode(self._prompt_ids[-_PROMPT_END:], keep_special_tokens=True)

    def _prompt_logprobs(self, scores: Sequence[RawLogprob]) -> list[TokenLogprob]:
        first, *others = self._prompt_ids
        found = [TokenLogprob(first, 0.0, self._codec.token_bytes(first), [])]
        return found + [token_logprob(self._codec, *each) for each in zip(others, scores, strict=True)]

    def push(
        self, events: list[Event], choice: int, token_id: int, now: float, logprob: RawLogprob | None = None
    ) -> bool:
        """Report one new token; True when the choice has ended, with this token or before (it is then dropped)."""
        state = self._choices[choice]
        if state.ended:
            return True
        if self._fresh == 0:
            self._first = now
        self._fresh += 1
        self._last = now
        text, end = self._advance(choice, state, token_id)
        logprobs = None if logprob is None else [token_logprob(self._codec, token_id, logprob)]
        events.append(Delta(self.key, choice, (token_id,), text, logprobs, state.count - 1))
        if end is None:
            return False
        state.ended = True
        events.append(end)
        self._live -= 1
        if self._live == 0:
            self._finish(events)
        return True

    def _advance(self, index: int, choice: _Choice, token_id: int) -> tuple[str, ChoiceFinished | None]:
        """The text that a token releases, and the end of the choice if it brings it."""
        before = choice.count
        choice.count = before + 1
        may_end = before >= self._sampling.min_tokens
        if may_end and token_id in self.ending:
            return self._end_by_token(index, choice, token_id)
        text = choice.detokenizer.push(token_id)
        if choice.count >= self.limit:
            text += choice.detokenizer.flush()
        matcher = choice.matcher
        stop = None
        # Text of the first min_tokens tokens is never searched: a stop string must begin after it.
        if matcher is not None and may_end:
            text = matcher.push(text)
            stop = matcher.matched
        if choice.echo:
            text, choice.echo = choice.echo + text, ""
        if stop is not None:
            return (text + stop if self._sampling.include_stop else text), ChoiceFinished(
                self.key, index, FinishReason.STOP, stop_string=stop, tokens=choice.count
            )
        if choice.count < self.limit:
            return text, None
        if matcher is not None:
            text += matcher.flush()
        return text, ChoiceFinished(self.key, index, FinishReason.LENGTH, tokens=choice.count)

    def _end_by_token(self, index: int, choice: _Choice, token_id: int) -> tuple[str, ChoiceFinished]:
        """The token's own text is part of the output only with include_stop, as with stop strings."""
        text = choice.detokenizer.push(token_id) if self._sampling.include_stop else ""
        text += choice.detokenizer.flush()
        stop = None
        if choice.matcher is not None:
            text = choice.matcher.push(text)
            stop = choice.matcher.matched
            text += (stop if self._sampling.include_stop else "") if stop else choice.matcher.flush()
        if choice.echo:
            text, choice.echo = choice.echo + text, ""
        if stop is not None:
            return text, ChoiceFinished(self.key, index, FinishReason.STOP, stop_string=stop, tokens=choice.count)
        return text, ChoiceFinished(self.key, index, FinishReason.STOP, stop_token_id=token_id, tokens=choice.count)

    def _finish(self, events: list[Event]) -> None:
        self.finished = True
        fresh = self._fresh > 0
        events.append(
            Finished(
                self.key,
                prompt_tokens=len(self._prompt_ids),
                completion_tokens=sum(choice.count for choice in self._choices),
                cached_tokens=self._cached_tokens,
                queue_time=self._start - self._arrived,
                prefill_time=self._first - self._start if fresh else 0.0,
                decode_time=self._last - self._first if fresh else 0.0,
            )
        )
