"""More choices than are asked for, of which the best are reported.

Which ones these are is known at the end only. So nothing is held back on the way for want of credit, and an attempt
that breaks off before its end has told nobody anything: the next one generates all choices anew, and because every draw
is a function of (seed, choice, position), they and their ranks are the same. What a resumed request names are ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mesh.engine.base import ChoiceFinished, Delta, Event, Progress, Request, TokenLogprob
from mesh.engine.output import OutputTracker, RawLogprob
from mesh.engine.text import Codec


def picks(request: Request) -> bool:
    """Whether more choices are generated than reported."""
    return request.sampling.best_of is not None and request.sampling.best_of > request.sampling.n


def generated(request: Request) -> Request:
    """The request for all choices that are generated; the same unless some are left out."""
    if not picks(request):
        return request
    output, again = request.output, bool(request.resume)
    return replace(
        request,
        sampling=replace(request.sampling, n=request.sampling.best_of, best_of=None),
        output=replace(
            output,
            logprobs=output.logprobs or 0,
            prompt_logprobs=None if again else output.prompt_logprobs,
        ),
        resume={},
        credit=None,
    )


@dataclass(slots=True)
class _Answer:
    """What one choice has come to."""

    choice: int
    token_ids: list[int] = field(default_factory=list[int])
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    end: ChoiceFinished | None = None

    @property
    def mean_logprob(self) -> float:
        return sum(each.logprob for each in self.logprobs) / len(self.logprobs)


class BestOfTracker(OutputTracker):
    """Reports the n choices with the best mean log probability, best first, when all are over.

    The mean is over a choice's tokens, under the model's own distribution; of equals the lower choice goes first.
    """

    def __init__(
        self,
        request: Request,
        codec: Codec,
        *,
        prompt_ids: Sequence[int],
        eos_token_ids: Sequence[int],
        context_length: int,
        template_stops: Sequence[str] = (),
        arrived: float,
    ) -> None:
        every = generated(request)
        super().__init__(
            every,
            codec,
            prompt_ids=prompt_ids,
            eos_token_ids=eos_token_ids,
            context_length=context_length,
            template_stops=template_stops,
            arrived=arrived,
        )
        self._asked = request
        self._answers = [_Answer(choice) for choice in range(every.sampling.n)]

    def push(
        self, events: list[Event], choice: int, token_id: int, now: float, logprob: RawLogprob | None = None
    ) -> bool:
        """See OutputTracker."""
        own: list[Event] = []
        over = super().push(own, choice, token_id, now, logprob)
        answer = self._answers[choice]
        for event in own:
            if isinstance(event, Delta):
                answer.token_ids += event.token_ids
                answer.texts.append(event.text)
                answer.logprobs += event.logprobs or ()
            elif isinstance(event, ChoiceFinished):
                answer.end = event
            else:
                self._report(events)
                events.append(event)
        return over

    def _report(self, events: list[Event]) -> None:
        asked = self._asked
        ranked = sorted(self._answers, key=lambda answer: answer.mean_logprob, reverse=True)
        for rank, answer in enumerate(ranked[: asked.sampling.n]):
            told = asked.resume.get(rank, Progress(()))
            if told.token_ids not in ((), tuple(answer.token_ids)):
                raise ValueError(f"'resume' holds other tokens than the choice of rank {rank}")
            if not told.token_ids:
                logprobs = None if asked.output.logprobs is None else answer.logprobs
                events.append(Delta(asked.key, rank, answer.token_ids, "".join(answer.texts), logprobs, 0))
            if answer.end is not None and not told.finished:
                events.append(replace(answer.end, choice=rank))
