"""One multiplexed session with one worker: one channel, one bidirectional stream, all generations on it.

Every engine step arrives as one message. Its events are put on the lists of their streams, and each stream that got
any is woken once. Nothing here decides where a request runs: a session reports facts (lost, silent, stalled,
draining), and `generation.py` draws the conclusions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import grpc.aio

from gateway.routing import clock
from gateway.routing.arrivals import sort
from gateway.routing.handshake import Handshake
from gateway.routing.keeping import tag
from gateway.routing.pace import Pace, StallLimits, mean_of
from gateway.routing.standstill import neglect, standstill
from gateway.routing.stream import Stream, Trouble
from gateway.routing.suspects import Call, Suspect, Suspects
from mesh import wire
from mesh.dial import Dial, Outbox
from mesh.errors import ErrorKind, MeshError
from mesh.join import JoinToken
from mesh.log import kv
from mesh.registry.backoff import Backoff
from mesh.v1 import inference_pb2 as pb
from mesh.v1.inference_pb2_grpc import InferenceServiceStub
from mesh.v1.registry_pb2 import ServedModel, WorkerRecord

log = logging.getLogger(__name__)

Response = TypeVar("Response")

# A worker that accepts a connection but does not open the session in time is frozen.
OPEN_LIMIT_SECONDS = 5.0
# When a worker announces none.
_DEFAULT_HEARTBEAT = 2.0
# Seconds. Another gateway may have taken the place; it is free again when a row of the worker ends.
_FIRST_REFUSAL_PAUSE = 0.05
_LONGEST_REFUSAL_PAUSE = 1.0
# Never reused: a worker that came back is another place than the one that was left.
_epochs = itertools.count(1)


class Session:
    """The session with one incarnation of one worker. `run` keeps it open, again and again, until it is cancelled.

    `on_change` is called when it became usable or ceased to be, `on_message` with each message that has events,
    `on_load` with each load report. Attributes are to be read only.
    """

    def __init__(
        self,
        record: WorkerRecord,
        *,
        client: str,
        dial: Dial,
        join: JoinToken | None = None,
        limits: StallLimits,
        on_change: Callable[[], None],
        on_message: Callable[[], None],
        on_load: Callable[[Session], None],
    ) -> None:
        self.worker_id = record.worker_id
        self.incarnation = record.incarnation
        self.address = record.address
        # One start of one worker: what it has cached is there as long as this is.
        self.process = f"{record.worker_id} {record.incarnation}"
        self.tag = tag(self.process)
        self.zone = record.zone
        self.slots = max(1, record.slots)
        self.weight = record.weight if 0 < record.weight < math.inf else 1.0
        # How much it can take beside others.
        self.capacity = self.slots * self.weight
        # By name, as the registry has them now; kept by the directory.
        self.models: Mapping[str, ServedModel] = {}
        self.epoch = 0
        self.open = False
        self.silent = False
        self.stalled = False
        self.draining = False
        self.retired = False
        # It was open, and nobody answers at its address any more.
        self.gone = False
        # When it last died or froze: whether rows of others were there.
        self.had_foreign_rows = False
        self.load = pb.WorkerLoad()
        # Of the load: rows in any state, and tokens in flight and queued. Policies read them for all workers at once.
        self.rows = self.tokens = 0
        # Rows that were started and are not in `load` yet, and tokens of their prompts.
        self.unconfirmed = self.unconfirmed_tokens = 0
        # Whether it refused the last request that it answered, and until when it is not asked again for that.
        self.refusing = False
        self.full_until = 0.0
        self._refusals = Backoff(_FIRST_REFUSAL_PAUSE, _LONGEST_REFUSAL_PAUSE)
        # Inputs of calls to Embed that are under way.
        self.embedding = 0
        self.heartbeat = _DEFAULT_HEARTBEAT
        self._client = client
        self._dial = dial
        self._join = join
        self._limits = limits
        self._on_change = on_change
        self._on_message = on_message
        self._on_load = on_load
        self._streams: dict[int, Stream[Session]] = {}
        self._ids = itertools.count(1)
        self._outbox: Outbox | None = None
        self._stub: InferenceServiceStub | None = None
        self._heard_at = 0.0
        self._pace = Pace(0.0, limits)
        self._complained = False
        self._suspects = Suspects()

    @property
    def live(self) -> bool:
        """Whether new streams can be started here."""
        return self.open and not (self.silent or self.stalled or self.draining)

    @property
    def state(self) -> str:
        """One word for metrics and people."""
        if not self.open:
            return "connecting"
        if self.draining:
            return "draining"
        return "frozen" if self.silent or self.stalled else "ready"

    def __len__(self) -> int:
        """Streams and inputs that are under way."""
        return len(self._streams) + self.embedding

    # What generations do

    def start(
        self,
        request: pb.GenerateRequest,
        *,
        rows: int,
        credit: int | None,
        tokens: int = 0,
        keep: pb.Keep | None = None,
    ) -> Stream[Session]:
        """Start a generation, whose prompt may have so many tokens, or go on with the one that is kept there. If the
        session is not open any more, the stream is lost at once."""
        stream: Stream[Session] = Stream(self, next(self._ids), rows, credit, tokens, kept=keep is not None)
        if self._outbox is None:
            stream.lost = self._gone("is not connected")
            stream.ended = True
            return stream
        self._streams[stream.id] = stream
        self.unconfirmed += rows
        self.unconfirmed_tokens += tokens
        start = pb.StreamStart(stream_id=stream.id, request=request, credit=credit, keep=keep)
        self.send(pb.SessionRequest(start=start))
        return stream

    async def call(self, call: Call, ask: Callable[[InferenceServiceStub], Awaitable[Response]]) -> Response:
        """Make a call on the session's connection, which ends with it. Raises MeshError."""
        stub = self._stub
        if stub is None or not self.open:
            raise self._gone("is not connected")
        call.id = next(self._ids)
        self._suspects.begin(call)
        self.embedding += call.size
        lost = False
        try:
            return await ask(stub)
        except grpc.aio.AioRpcError as error:
            raised = _raised(error)
            lost = isinstance(raised, MeshError) and raised.kind is ErrorKind.WORKER_LOST
            # What gRPC says names addresses, which are no business of clients.
            raise (self._gone("was lost") if lost else raised) from None
        except asyncio.CancelledError:
            if wire.cancelled_by_caller():
                raise
            lost = True
            raise self._gone("was lost") from None  # gRPC cancels what is under way on a channel that is closed
        finally:
            self.embedding -= call.size
            self._suspects.end(call, lost=lost)

    def send(self, command: pb.SessionRequest) -> None:
        """Queue a command; without a connection there is nobody to command."""
        if self._outbox is not None:
            self._outbox.put(command)

    def forget(self, stream: Stream[Session], *, keep: bool = False) -> None:
        """See Stream.close."""
        if self._streams.pop(stream.id, None) is None:
            return
        self._confirm(stream)
        if not stream.ended:
            stream.ended = True
            self.send(pb.SessionRequest(cancel=pb.StreamCancel(stream_id=stream.id, keep=keep)))

    def trouble(self, stream: Stream[Session], now: float) -> tuple[Trouble, float] | None:
        """What is wrong with the worker as this stream sees it, and for how many seconds it has been."""
        if self.silent:
            return Trouble.SILENT, now - self._heard_at
        if not stream.starved:
            found = standstill(self._pace, stream, now) or neglect(self._pace, stream, now)
            if found is not None:
                return found
        if self.draining:
            return Trouble.DRAINING, 0.0
        return None

    def rivals(self, one: Suspect) -> int:
        """See Suspects."""
        return self._suspects.rivals(one)

    def has_suspect(self, strikes: int) -> bool:
        """Whether something is here whose request has so many strikes, and has not come further yet."""
        streams = self._streams.values()
        return self._suspects.has_call(strikes) or any(
            stream.strikes >= strikes and not stream.proven for stream in streams
        )

    def _note_suspects(self) -> None:
        streams = self._streams.values()
        self._suspects.note(streams)
        rows = self.load.running + self.load.waiting + self.load.paused
        self.had_foreign_rows = rows > sum(stream.rows for stream in streams)

    @property
    def step_seconds(self) -> float | None:
        """The worker's mean time for a step that only decodes; None as long as none has been seen. It tells a slow
        worker from its like, whatever the load."""
        return self._pace.step_seconds

    def refused(self) -> None:
        """It had no room although its load shows some: it is asked again after a pause, longer each time."""
        self.refusing = True
        self.full_until = clock.now() + self._refusals.next()

    def accepted(self) -> None:
        """It began a request."""
        self.refusing = False
        self._refusals.reset()

    def stop_routing(self) -> None:
        """The worker takes no more streams, says the registry or an answer of the worker."""
        if not self.draining:
            self.draining = True
            self._nudge_all()
            self._on_change()

    def resume_routing(self) -> None:
        """The worker takes streams again: its drain was called off."""
        if self.draining and not self.retired:
            self.draining = False
            log.info("worker takes streams again", extra=self._facts())
            self._on_change()

    def retire(self) -> None:
        """Take no more streams, for good."""
        self.retired = True
        self.stop_routing()

    # The connection

    async def run(self) -> None:
        """Connect, serve, and connect again after a growing pause, until cancelled."""
        backoff = Backoff()
        while True:
            epoch = self.epoch
            try:
                await self._connect()
                self._complain("the worker ended the session")
            except MeshError as error:
                self._complain(error.message)
            except Exception:
                log.exception("a session broke", extra=self._facts())
            if epoch and self.epoch == epoch and not self.gone:
                self.gone = True
                self._on_change()
            if self.epoch and clock.now() - self._heard_at < OPEN_LIMIT_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _connect(self) -> None:
        """One connection from its opening to its end. Raises MeshError if it fails."""
        handshake = Handshake(self.worker_id, self.incarnation, self.address, self._join)
        outbox = Outbox(handshake.opening(self._client))
        async with self._dial(self.address) as stub:
            try:
                self._stub = stub
                call = self._stub.Session(outbox)
                async with asyncio.timeout(OPEN_LIMIT_SECONDS) as limit:
                    async for message in call:
                        if not self.open:
                            self._opened(message, handshake, outbox)
                            limit.reschedule(None)
                        self._receive(message)
            except TimeoutError:
                raise self._gone(f"did not open the session within {OPEN_LIMIT_SECONDS:g} s") from None
            except grpc.aio.AioRpcError as error:
                raise _raised(error) from None
            finally:
                outbox.close()
                self._closed()

    def _opened(self, message: pb.SessionResponse, handshake: Handshake, outbox: Outbox) -> None:
        """Check that it is the worker that the registry told of, and let streams be started."""
        opened = message.opened
        proof = handshake.check(opened)
        if proof is not None:
            outbox.put(proof)
        now = clock.now()
        self.heartbeat = opened.heartbeat or _DEFAULT_HEARTBEAT
        self.epoch = next(_epochs)
        self.open, self.silent, self.stalled, self.gone = True, False, False, False
        self._suspects.reset()
        self.draining = self.retired or message.draining
        self.unconfirmed = self.unconfirmed_tokens = 0
        self._outbox = outbox
        self._heard_at = now
        self._pace = Pace(now, self._limits)
        self._complained = False
        log.info("worker connected", extra=self._facts())
        self._on_change()

    def _receive(self, message: pb.SessionResponse) -> None:
        """The hot path: once per engine step, and once per token in the loop."""
        now = clock.now()
        self._heard_at = now
        if message.events or message.HasField("tokens"):
            for stream in sort(message, self._streams.get):
                if stream.confirmed:
                    stream.pace = mean_of(stream.pace, now - stream.active_at)
                else:
                    self._confirm(stream)
                stream.active_at = now
                stream.arrived()
            self._on_message()
        if message.HasField("load"):
            self.report(message.load)
            self._pace.observe(message.load, now)
        if self.silent or (self.stalled and self._pace.thawed):
            self.silent = self.stalled = False
            log.info("worker goes on", extra=self._facts())
            self._on_change()
        if message.draining and not self.draining:
            self.stop_routing()
        elif message.undrained:
            self.resume_routing()
        if message.HasField("load"):
            self._on_load(self)

    def report(self, load: pb.WorkerLoad) -> None:
        """Take the worker's word for how busy it is."""
        self.load = load
        self.rows = load.running + load.waiting + load.paused
        self.tokens = load.running_tokens + load.pending_tokens

    def _confirm(self, stream: Stream[Session]) -> None:
        """The worker's load contains the stream from its first event on."""
        if not stream.confirmed:
            stream.confirmed = True
            self.unconfirmed = max(0, self.unconfirmed - stream.rows)
            self.unconfirmed_tokens = max(0, self.unconfirmed_tokens - stream.tokens)

    def _closed(self) -> None:
        """The connection is gone, and all streams with it."""
        if self.open:
            self._note_suspects()
        was_open, self.open, self._outbox, self._stub = self.open, False, None, None
        streams, self._streams = list(self._streams.values()), {}
        self.unconfirmed = self.unconfirmed_tokens = 0
        for stream in streams:
            stream.ended = True
            stream.lost = self._gone("was lost")
            stream.wake()
        if was_open:
            self._on_change()

    # The watch

    def tick(self, now: float, late: float) -> None:
        """Look for silence and standstill; called some times a second.

        `late` is by how many seconds this call is overdue. The worker may have spoken meanwhile without being heard, so
        that time is not held against it.
        """
        if not self.open:
            return
        self._heard_at += late
        self._pace.forgive(late)
        if not self.silent and now - self._heard_at > self.heartbeat:
            self.silent = True
            self._note_suspects()
            log.warning("worker is silent", extra=self._facts(seconds=round(now - self._heard_at, 2)))
            self._on_change()
        # A stream that has had something after this moment is well, unless it is to move for another reason.
        well = math.inf if self.silent or self.draining else now - self._limits.shortest
        for stream in list(self._streams.values()):
            stream.active_at += late
            if stream.active_at > well:
                continue
            found = self.trouble(stream, now)
            if found is not None:
                if found[0] is Trouble.STALLED and not self.stalled:
                    self.stalled = True
                    self._note_suspects()
                    log.warning("worker stands still", extra=self._facts(seconds=round(found[1], 2)))
                    self._on_change()
                stream.wake()

    def _nudge_all(self) -> None:
        for stream in self._streams.values():
            stream.wake()

    def _gone(self, what: str) -> MeshError:
        return MeshError(ErrorKind.WORKER_LOST, f"worker '{self.worker_id}' {what}")

    def _complain(self, why: str) -> None:
        """Once per outage: a worker that died is tried for as long as the registry keeps it."""
        if not self._complained:
            self._complained = True
            log.warning("worker not connected", extra=self._facts(why=why))

    def _facts(self, **more: object) -> dict[str, object]:
        return kv(worker=self.worker_id, incarnation=self.incarnation, address=self.address, **more)


def _raised(error: grpc.aio.AioRpcError) -> BaseException:
    """What an error of a call is to be raised as."""
    return asyncio.CancelledError() if wire.cancelled_by_caller() else wire.from_rpc_error(error, "--worker-")
