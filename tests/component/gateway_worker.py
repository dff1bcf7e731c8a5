"""A worker written by hand at the far side of the real wire, whose every misbehaviour a test can command.

Its model is a function: token and text at each position follow from (seed, choice, position) alone, so that a resumed
answer can be compared with an undisturbed one. Each third token holds its text back until the next one, as a stop
string or an incomplete character would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from mesh import wire
from mesh.errors import MeshError
from mesh.v1 import inference_pb2 as pb
from mesh.v1 import inference_pb2_grpc as pb_grpc
from mesh.v1.registry_pb2 import WORKER_STATE_READY, ServedModel, WorkerRecord
from tests.columns import to_columns

PROMPT_TOKENS = 5
# The second choice ends by itself after so many tokens, whatever the limit.
SECOND_CHOICE_ENDS = 6
# All but embeddings and sight.
CAPABILITIES = (
    pb.CAPABILITY_COMPLETION,
    pb.CAPABILITY_CHAT,
    pb.CAPABILITY_RESUME,
    pb.CAPABILITY_LOGPROBS,
    pb.CAPABILITY_CONSTRAINT,
    pb.CAPABILITY_TOOLS,
    pb.CAPABILITY_PROMPT_LOGPROBS,
)


def token_at(seed: int, choice: int, position: int) -> int:
    """The model."""
    return (seed * 31 + choice * 17 + position * 7) % 1000


def word(token: int, padding: int = 0) -> str:
    """The tokenizer, with characters that JSON and UTF-8 must carry."""
    return (f' w{token}"é\n' if token % 5 == 0 else f" w{token}") + "-" * padding


def text_of_tokens(tokens: Sequence[int], padding: int = 0) -> str:
    """What the whole answer reads."""
    return "".join(word(token, padding) for token in tokens)


class Row:
    """One stream on one session."""

    def __init__(self, start: pb.StreamStart, default_length: int, padding: int, script: Sequence[str] = ()) -> None:
        self.padding = padding
        self.script = script
        sampling = start.request.sampling
        self.id = start.stream_id
        self.request = start.request
        self.length = sampling.max_tokens if sampling.HasField("max_tokens") else default_length
        self.natural_end = dict.fromkeys(range(128), len(script)) if script else {1: SECOND_CHOICE_ENDS}
        self.credit = start.credit if start.HasField("credit") else None
        self.seed = sampling.seed
        count = sampling.n or 1
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.finished = [False] * count
        self.started = False
        for progress in start.request.resume.choices:
            self.tokens[progress.choice] = list(progress.token_ids)
            self.finished[progress.choice] = progress.finished

    def step(self, fingerprint: str, cached: int) -> list[pb.StreamEvent]:
        """The events of one engine step."""
        events: list[pb.StreamEvent] = []
        if not self.started:
            self.started = True
            started = pb.Started(prompt_tokens=PROMPT_TOKENS, cached_tokens=cached, fingerprint=fingerprint)
            if self.request.output.HasField("prompt_logprobs") and not self.request.HasField("resume"):
                for place, character in enumerate(self.request.text):
                    started.prompt_logprobs.add(token_id=place, logprob=-place, token=character.encode())
            if self.request.output.prompt_token_ids:
                started.prompt_token_ids.extend(range(PROMPT_TOKENS))
            events.append(pb.StreamEvent(stream_id=self.id, started=started))
        for choice, tokens in enumerate(self.tokens):
            if not self.finished[choice]:
                events += self._advance(choice, tokens)
        if all(self.finished):
            usage = pb.Usage(
                prompt_tokens=PROMPT_TOKENS,
                completion_tokens=sum(map(len, self.tokens)),
                cached_tokens=cached,
            )
            events.append(pb.StreamEvent(stream_id=self.id, finished=pb.Finished(usage=usage)))
        return events

    def _word(self, token: int) -> str:
        return self.script[token] if self.script else word(token, self.padding)

    def _advance(self, choice: int, tokens: list[int]) -> list[pb.StreamEvent]:
        events: list[pb.StreamEvent] = []
        end = min(self.length, self.natural_end.get(choice, self.length))
        if len(tokens) < end:
            if self.credit is not None:
                if self.credit <= 0:
                    return []
                self.credit -= 1
            position = len(tokens)
            token = position if self.script else token_at(self.seed, choice, position)
            held = position % 3 == 2
            text = self._word(token)
            if position and position % 3 == 0:
                text = self._word(tokens[-1]) + text
            if position == 0 and self.request.output.echo:
                text = self.request.text + text
            tokens.append(token)
            delta = pb.Delta(choice=choice, token_ids=[token], text="" if held else text, position=position)
            if self.request.output.HasField("logprobs"):
                delta.logprobs.add(token_id=token, logprob=-token / 100, token=word(token).encode())
            events.append(pb.StreamEvent(stream_id=self.id, delta=delta))
        if len(tokens) >= end:
            if (len(tokens) - 1) % 3 == 2:
                release = pb.Delta(choice=choice, text=self._word(tokens[-1]))
                events.append(pb.StreamEvent(stream_id=self.id, delta=release))
            self.finished[choice] = True
            natural = len(tokens) < self.length or len(tokens) == len(self.script)
            reason = pb.FINISH_REASON_STOP if natural else pb.FINISH_REASON_LENGTH
            finished = pb.ChoiceFinished(choice=choice, reason=reason, tokens=len(tokens))
            events.append(pb.StreamEvent(stream_id=self.id, choice_finished=finished))
        return events


class FakeWorker(pb_grpc.InferenceServiceServicer):
    """`async with` it. Tests set the attributes below at any time."""

    def __init__(
        self,
        worker_id: str,
        *,
        models: Sequence[str] = ("m",),
        fingerprint: str = "sha256:aaaabbbbccccdddd",
        incarnation: str = "i1",
        length: int = 12,
        pause: float = 0.002,
        heartbeat: float = 2.0,
        slots: int = 8,
        padding: int = 0,
        capabilities: Sequence[pb.Capability] = CAPABILITIES,
    ) -> None:
        self.worker_id = worker_id
        self.models = models
        self.fingerprint = fingerprint
        self.incarnation = incarnation
        self.length = length
        self.pause = pause
        self.heartbeat = heartbeat
        self.slots = slots
        self.padding = padding
        self.capabilities = capabilities
        # Misbehaviour.
        self.silent = False
        self.stalled = False
        self.draining = False
        self.refusal: MeshError | None = None
        self.stop_after: int | None = None  # stands still once a row has so many tokens
        self.ends_with: grpc.StatusCode | None = None  # the session, now
        self.cached = 0
        self.script: Sequence[str] = ()  # the texts of its tokens, if they are not made up
        self.markup: pb.Markup | None = None  # how it says that these mark calls and reasoning
        self.answers_as = fingerprint  # unlike what the registry says, if a test so wishes
        self.withheld: set[str] = set()  # kinds of events that it never sends
        # What it makes of the events of a row in a step.
        self.alter: Callable[[Row, list[pb.StreamEvent]], list[pb.StreamEvent]] = lambda _, events: events
        self.text_only = False  # tells no token ids, and counts at the end alone
        # What it saw.
        self.starts: list[pb.StreamStart] = []
        self.cancels: list[int] = []
        self.credits: list[pb.StreamCredit] = []
        self.rows: dict[int, Row] = {}
        self.steps = 0
        self.sessions = 0
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def start(self, port: int = 0) -> None:
        """Serve."""
        self._server = grpc.aio.server(options=wire.SERVER_OPTIONS)
        pb_grpc.add_InferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{wire.bind(self._server, '127.0.0.1', port)}"
        await self._server.start()

    async def kill(self) -> None:
        """End every connection at once."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    def record(self) -> WorkerRecord:
        """What it would say in the registry."""
        record = WorkerRecord(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            address=self.address,
            slots=self.slots,
            state=WORKER_STATE_READY,
        )
        record.started_at.FromSeconds(1_700_000_000)
        for name in self.models:
            record.models.append(
                ServedModel(
                    name=name, fingerprint=self.fingerprint, context_length=4096, capabilities=self.capabilities
                )
            )
        return record

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See inference.proto."""
        first = await anext(aiter(requests))
        assert first.HasField("open")
        self.sessions += 1
        opened = pb.SessionOpened(worker_id=self.worker_id, incarnation=self.incarnation, heartbeat=self.heartbeat)
        await context.write(pb.SessionResponse(opened=opened, load=self._load()))
        mine: dict[int, Row] = {}
        failures: list[pb.StreamEvent] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve(context, mine, failures, columns=first.open.columns))
                async for command in requests:
                    self._obey(command, mine, failures)
        finally:
            for key in [key for key, row in self.rows.items() if mine.get(row.id) is row]:
                del self.rows[key]

    def _obey(self, command: pb.SessionRequest, mine: dict[int, Row], failures: list[pb.StreamEvent]) -> None:
        match command.WhichOneof("command"):
            case "start":
                start = command.start
                self.starts.append(start)
                if self.refusal is not None:
                    failed = pb.Failure(
                        code=self.refusal.code,
                        message=self.refusal.message,
                        param=self.refusal.param or "",
                        retry_after=self.refusal.retry_after,
                    )
                    failures.append(pb.StreamEvent(stream_id=start.stream_id, failed=failed))
                    return
                row = mine[start.stream_id] = Row(start, len(self.script) or self.length, self.padding, self.script)
                self.rows[id(row)] = row
            case "cancel":
                self.cancels.append(command.cancel.stream_id)
                row = mine.pop(command.cancel.stream_id, None)
                if row is not None:
                    del self.rows[id(row)]
            case "credit":
                self.credits.append(command.credit)
                row = mine.get(command.credit.stream_id)
                if row is not None and row.credit is not None:
                    row.credit += command.credit.tokens
            case _:
                raise AssertionError(command)

    async def _serve(
        self, context: Any, mine: dict[int, Row], failures: list[pb.StreamEvent], *, columns: bool
    ) -> None:
        beat_at = 0.0
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self.pause)
            if self.silent:
                continue
            if self.ends_with is not None:
                await context.abort(self.ends_with, "as told")
            message = pb.SessionResponse(draining=self.draining)
            message.events.extend(failures)
            failures.clear()
            if not self._stands_still(mine):
                self._step(message, mine)
            if message.events or now() - beat_at > self.heartbeat / 4:
                beat_at = now()
                message.load.CopyFrom(self._load())
                if columns:
                    to_columns(message)
                await context.write(message)

    def _stands_still(self, mine: dict[int, Row]) -> bool:
        limit = self.stop_after
        return self.stalled or (
            limit is not None and any(len(tokens) >= limit for row in mine.values() for tokens in row.tokens)
        )

    def _step(self, message: pb.SessionResponse, mine: dict[int, Row]) -> None:
        for row in list(mine.values()):
            events = row.step(self.answers_as, self.cached)
            if self.text_only:
                _without_tokens(events)
            if self.markup is not None and row.request.output.markup:
                for event in events:
                    if event.HasField("started"):
                        event.started.markup.CopyFrom(self.markup)
            events = [event for event in events if event.WhichOneof("event") not in self.withheld]
            message.events.extend(self.alter(row, events))
            if all(row.finished):
                del mine[row.id]
                del self.rows[id(row)]
        if message.events:
            self.steps += 1
            message.step = self.steps

    def _load(self) -> pb.WorkerLoad:
        return pb.WorkerLoad(running=len(self.rows), slots=self.slots, steps=self.steps)


def _without_tokens(events: list[pb.StreamEvent]) -> None:
    for event in events:
        if event.HasField("started"):
            event.started.text_only = True
            event.started.prompt_tokens = 0
        elif event.HasField("delta"):
            event.delta.ClearField("token_ids")
            event.delta.ClearField("position")
        elif event.HasField("choice_finished"):
            event.choice_finished.ClearField("tokens")
