"""Several generations behind one answer: one for each prompt of a request, side by side.

Their events are merged into those of a single generation: prompt p's choice c is choice p * n + c, the first Started
stands for all, and the last Finished has the sum of all tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.routing.events import Delta, Event
from gateway.routing.generation import Generation
from gateway.routing.hedge import Hedge
from gateway.routing.keeping import NOWHERE
from gateway.routing.trail import Attempt
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb


class GenerationGroup:
    """See the module. The interface is that of `Generation`; every member keeps its own credit, attempts and failover.

    It owns one task for each member that is waited for; `close` ends them.
    """

    def __init__(self, members: Sequence[Generation], choices: int) -> None:
        """`choices`: how many each member has."""
        self.done = False
        self._members = members
        self._choices = choices
        self._waits: dict[asyncio.Task[list[Event]], int] = {}
        self._returned: list[Generation] = []
        self._begun = False
        self._usage = pb.Usage()

    @property
    def model(self) -> str:
        """The model asked for."""
        return self._members[0].model

    @property
    def attempts(self) -> int:
        """Attempts of all members."""
        return sum(member.attempts for member in self._members)

    @property
    def hedge(self) -> Hedge | None:
        """That of the first member that had one."""
        return next((member.hedge for member in self._members if member.hedge is not None), None)

    @property
    def trail(self) -> list[Attempt]:
        """Attempts of all members, prompt by prompt."""
        return [attempt for member in self._members for attempt in member.trail]

    @property
    def resumes(self) -> int:
        """Moves to another worker, of all members."""
        return sum(member.resumes for member in self._members)

    @property
    def completion_tokens(self) -> int:
        """Tokens so far, over all choices of all members."""
        return sum(member.completion_tokens for member in self._members)

    @property
    def started(self) -> pb.Started | None:
        """The prompts that have been accepted so far, as one; None before the first."""
        found = [member.started for member in self._members if member.started is not None]
        if not found:
            return None
        return pb.Started(
            prompt_tokens=sum(each.prompt_tokens for each in found),
            cached_tokens=sum(each.cached_tokens for each in found),
            fingerprint=found[0].fingerprint,
        )

    @property
    def kept_at(self) -> bytes:
        """As `Generation.kept_at`: several are not kept."""
        return NOWHERE

    def started_of(self, choice: int) -> pb.Started:
        """As `Generation.started_of`."""
        return self._members[choice // self._choices].started_of(0)

    async def next(self) -> list[Event]:
        """The next events, at least one, of whichever members have some. Raises MeshError when one member has failed:
        an answer without one of its prompts is none.

        It does not wait until all have begun: on a worker with few places that could take as long as the answer.
        """
        while True:
            self._wait_for_all()
            ready, _ = await asyncio.wait(self._waits, return_when=asyncio.FIRST_COMPLETED)
            self._returned = []
            events: list[Event] = []
            for task in sorted(ready, key=self._waits.__getitem__):
                place = self._waits.pop(task)
                self._merge(place, task.result(), events)
                self._returned.append(self._members[place])
            self._finish(events)
            if events:
                return events
            self.delivered()

    def delivered(self) -> None:
        """As `Generation.delivered`, for the members that the last events came from."""
        for member in self._returned:
            member.delivered()
        self._returned = []

    def abort(self, error: MeshError) -> None:
        """As `Generation.abort`."""
        for member in self._members:
            member.abort(error)

    def close(self) -> None:
        """End all, whatever their state."""
        for task in self._waits:
            task.cancel()
            task.add_done_callback(_forget)
        for member in self._members:
            member.close()

    def _wait_for_all(self) -> None:
        waited_for = set(self._waits.values())
        for place, member in enumerate(self._members):
            if not member.done and place not in waited_for:
                self._waits[asyncio.create_task(member.next(), name=f"prompt {place}")] = place

    def _merge(self, place: int, arrived: Sequence[Event], events: list[Event]) -> None:
        for event in arrived:
            if isinstance(event, Delta | pb.ChoiceFinished):
                event.choice += place * self._choices
                events.append(event)
            elif isinstance(event, pb.Started):
                if not self._begun:
                    self._begun = True
                    events.append(event)
            else:
                self._usage.prompt_tokens += event.usage.prompt_tokens
                self._usage.completion_tokens += event.usage.completion_tokens
                self._usage.cached_tokens += event.usage.cached_tokens

    def _finish(self, events: list[Event]) -> None:
        if all(member.done for member in self._members) and not self._waits:
            self.done = True
            events.append(pb.Finished(usage=self._usage))


def _forget(task: asyncio.Task[list[Event]]) -> None:
    """Take note of how a task ended that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
