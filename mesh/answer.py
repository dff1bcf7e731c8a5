"""What a request has produced so far, over all its attempts, and the check of everything that is to be added.

A worker that repeats, skips or swaps tokens, speaks of choices that nobody asked for, or ends before the end is broken:
what it says next cannot be trusted, so the attempt is over at the first such event. What was taken before is right,
and another worker goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb

Event = pb.Started | pb.Delta | pb.ChoiceFinished | pb.Finished


class Events(Protocol):
    """A list of events, of these kinds at least."""

    def append(self, event: Event, /) -> None:
        """See list."""
        ...

    def extend(self, events: Iterable[Event], /) -> None:
        """See list."""
        ...


class Violation(Exception):
    """What a worker did that the protocol does not allow."""


class WrongModel(Exception):
    """The answer would come from another model than the one asked for, or go on with another one."""


@dataclass(slots=True)
class Choice:
    """What one choice has produced."""

    token_ids: list[int] = field(default_factory=list[int])
    finished: bool = False
    # Text that a choice releases at its end comes in a delta without tokens. It waits for the end, as a resumed
    # worker would release it once more.
    tail: list[pb.Delta] = field(default_factory=list[pb.Delta])


class Answer:
    """The events of attempt after attempt go in by `take_delta` and `take`; what comes out are those of a single,
    perfect worker.

    `text_only`: it comes as text without token ids. `pinned`: some of that is out, so no other worker can go on.
    """

    __slots__ = (
        "_begun",
        "_fingerprint",
        "_rows",
        "_told_tokens",
        "_with_logprobs",
        "choices",
        "done",
        "pinned",
        "started",
        "text_only",
    )

    def __init__(self, request: pb.GenerateRequest) -> None:
        self.started: pb.Started | None = None
        self.done = False
        self.text_only = False
        self.pinned = False
        self.choices = [Choice() for _ in range(max(1, request.sampling.n))]
        self._rows = max(len(self.choices), request.sampling.best_of)
        self._with_logprobs = request.output.HasField("logprobs")
        # Of the attempt that is under way.
        self._begun = False
        self._fingerprint = ""
        self._told_tokens = 0  # by Finished, where they cannot be counted

    @property
    def tokens(self) -> int:
        """Tokens so far, over all choices."""
        return self._told_tokens or sum(len(choice.token_ids) for choice in self.choices)

    @property
    def silent(self) -> bool:
        """Whether nothing of it has come but its start."""
        return not (self.pinned or self.resumable_only)

    @property
    def open_rows(self) -> int:
        """Rows that it still takes on a worker."""
        if self._hidden:
            return self._rows
        return sum(not choice.finished for choice in self.choices) or 1

    @property
    def resumable_only(self) -> bool:
        """Whether a worker must resume to go on with it."""
        return any(choice.token_ids or choice.finished for choice in self.choices)

    @property
    def steady(self) -> bool:
        """Whether every step of a worker brings tokens, once the first have come."""
        return not (self.text_only or self._hidden)

    @property
    def _hidden(self) -> bool:
        """Whether more choices are generated than told."""
        return self._rows > len(self.choices)

    def add_progress(self, request: pb.GenerateRequest) -> None:
        """Tell another worker what there is already; limits such as max_tokens count from the beginning."""
        assert self.started is not None
        request.expected_fingerprint = self.started.fingerprint
        for index, choice in enumerate(self.choices):
            if choice.token_ids or choice.finished:
                request.resume.choices.add(choice=index, token_ids=choice.token_ids, finished=choice.finished)

    def begin_attempt(self, fingerprint: str) -> None:
        """What arrives next comes from a new attempt, which must be with this model; empty if nobody knows which."""
        self._begun = False
        self._fingerprint = fingerprint
        for choice in self.choices:
            choice.tail.clear()

    def take_delta(self, delta: pb.Delta, events: Events) -> int:
        """Add new tokens of a worker, and append what the client is to see to `events`: the hot path.

        Returns how many tokens of credit it took. Raises Violation, and has then taken nothing of it.
        """
        choice = self._open_choice(delta.choice)
        token_ids = delta.token_ids
        count = len(token_ids)
        if count:
            self._check_delta(delta, choice, count)
            if count == 1:
                choice.token_ids.append(token_ids[0])  # a quarter of what `extend` costs
            else:
                choice.token_ids.extend(token_ids)
        elif self.text_only:
            self.pinned = True
            count = 1
        else:
            choice.tail.append(delta)
            return 0
        events.append(delta)
        return count

    def take_token(self, token_id: int, position: int) -> None:
        """The same for the one token of a delta of choice 0 without log probabilities: the hottest path."""
        choice = self.choices[0]
        token_ids = choice.token_ids
        if position != len(token_ids) or choice.finished or choice.tail or self._with_logprobs or not self._begun:
            self._check_delta(pb.Delta(token_ids=[token_id], position=position), self._open_choice(0), 1)
        token_ids.append(token_id)

    def take(self, event: pb.StreamEvent | pb.GenerateResponse, events: Events) -> None:
        """The same for any other event but a failure. Raises WrongModel too."""
        match event.WhichOneof("event"):
            case "started":
                self._take_started(event.started, events)
            case "choice_finished":
                self._take_end(event.choice_finished, events)
            case "finished":
                self._take_finished(event.finished, events)
            case _:
                pass  # an event of a newer version

    def _check_delta(self, delta: pb.Delta, choice: Choice, count: int) -> None:
        there = len(choice.token_ids)
        if delta.position != there and delta.HasField("position"):
            raise Violation(f"sent token {delta.position} of choice {delta.choice} where token {there} was next")
        if choice.tail:
            raise Violation(f"sent tokens of choice {delta.choice} after the text of its end")
        if self._with_logprobs and len(delta.logprobs) != count:
            raise Violation(f"sent {len(delta.logprobs)} log probabilities for {count} tokens")

    def _open_choice(self, index: int) -> Choice:
        if not self._begun:
            raise Violation("sent output before the request had started")
        if index >= len(self.choices):
            raise Violation(f"sent output of choice {index}, of {len(self.choices)}")
        choice = self.choices[index]
        if choice.finished:
            raise Violation(f"sent output of choice {index} after its end")
        return choice

    def _take_started(self, started: pb.Started, events: Events) -> None:
        if self._begun:
            raise Violation("started a request twice")
        if self._fingerprint and started.fingerprint != self._fingerprint:
            raise WrongModel(f"answers with the model {started.fingerprint} instead of {self._fingerprint}")
        first = self.started
        if first is None:
            self.started = started
            self.text_only = started.text_only
            events.append(started)
        elif started.prompt_tokens != first.prompt_tokens:
            raise Violation(f"resumed a prompt of {first.prompt_tokens} tokens as one of {started.prompt_tokens}")
        self._begun = True

    def _take_end(self, end: pb.ChoiceFinished, events: Events) -> None:
        choice = self._open_choice(end.choice)
        there = len(choice.token_ids)
        if end.tokens != there and end.HasField("tokens"):
            raise Violation(f"ended choice {end.choice} with {end.tokens} tokens, of which {there} have come")
        if end.reason == pb.FINISH_REASON_UNSPECIFIED:
            raise Violation(f"ended choice {end.choice} for no reason")
        choice.finished = True
        self.pinned = self.text_only
        events.extend(choice.tail)
        choice.tail.clear()
        events.append(end)

    def _take_finished(self, finished: pb.Finished, events: Events) -> None:
        if not self._begun:
            raise Violation("ended a request that had not started")
        for index, choice in enumerate(self.choices):
            if not choice.finished:
                raise Violation(f"ended the request before choice {index} had ended")
        self.done = True
        events.append(self._with_usage(finished))

    def _with_usage(self, finished: pb.Finished) -> pb.Finished:
        """Usage as an undisturbed run reports it: a resumed attempt finds more of the prompt in the prefix cache, and
        what the client was sent is counted here. A text-only answer has its counts from its end alone, and tokens of
        choices that were not told are known to the worker alone.
        """
        usage, started = finished.usage, self.started
        assert started is not None
        if self.text_only:
            self._told_tokens = usage.completion_tokens
            started.prompt_tokens, started.cached_tokens = usage.prompt_tokens, usage.cached_tokens
            return finished
        if self._hidden:
            self._told_tokens = usage.completion_tokens
        usage.completion_tokens = self.tokens
        usage.prompt_tokens, usage.cached_tokens = started.prompt_tokens, started.cached_tokens
        return finished

    def finish_alone(self) -> list[Event]:
        """If only the last event is missing, and nobody is there to send it, it is known all the same."""
        if self.text_only or self._hidden or not all(choice.finished for choice in self.choices):
            return []
        self.done = True
        return [self._with_usage(pb.Finished())]


def error_of(failure: pb.Failure) -> MeshError:
    """What a worker says of an attempt that it could not serve."""
    return MeshError.from_code(
        failure.code,
        failure.message,
        param=failure.param or None,
        retry_after=failure.retry_after if failure.HasField("retry_after") else None,
    )
