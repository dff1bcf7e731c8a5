"""One batch, from its input to its output, on the gateway that has claimed it.

What is done is in the store: the status, and the result of each line as soon as it is there. Another gateway can go on
at any moment, and asks for those lines alone that have no result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.batches.call import Caller, Reply
from gateway.batches.contents import Contents
from gateway.batches.files import kept_file
from gateway.batches.lines import Checker, Line, read_line
from gateway.batches.places import Places
from gateway.batches.shapes import (
    OUTPUT,
    BatchObject,
    InputError,
    InputErrors,
    LineError,
    LineResponse,
    OutputLine,
)
from gateway.batches.spent import BatchUsage, spent_on
from gateway.exchange import Inside
from gateway.store.shapes import KeptBatch, KeptFile, Result
from mesh.errors import MeshError
from mesh.log import kv
from mesh.metrics import GatewayMetrics

if TYPE_CHECKING:
    from gateway.store.batches import Batches

log = logging.getLogger(__name__)

# Behind whatever clients ask for who say nothing of priority.
PRIORITY: Final = 50
DONE: Final = "done"
FAILED: Final = "failed"
# Answers that say that there is no room now, or that a key has used up its share of this minute.
_LATER: Final = (429, 503)
_NEVER: Final = b'"insufficient_quota"'
_LONGEST_WAIT: Final = 30.0
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Shop:
    """What all batches of a gateway share: how requests are made, `places` for `at_once` at a time, and `beat`, the
    seconds after which the store hears from a batch at the latest. `draining`: whether this gateway stops."""

    contents: Contents
    call: Caller
    places: Places
    at_once: int
    beat: float
    draining: Callable[[], bool]
    metrics: GatewayMetrics


class Work:
    """`await run()`. Raises TakenOver if another gateway has the batch, and MeshError if store or files fail."""

    def __init__(self, shop: Shop, batches: Batches, owner: str, tenant: str, body: bytes) -> None:
        self._shop = shop
        self._batches = batches
        self._owner = owner
        self._inside = Inside(tenant, PRIORITY)
        self._batch = msgspec.json.decode(body, type=BatchObject)
        self._results: list[Result] = []
        self._usage = BatchUsage()  # of these
        self._news = asyncio.Event()
        # Whether the last line to hear anything was told "later", and which of those lines asks again.
        self._full = False
        self._asking_again = asyncio.Lock()
        self._giving_way = asyncio.Event()

    def look(self) -> None:
        """Look into the store now: the batch may have been cancelled."""
        self._news.set()

    @property
    def stuck(self) -> bool:
        """Whether there was no room for its lines, the last time that it asked."""
        return self._full

    def give_way(self) -> None:
        """Let another batch have this one's turn: begin nothing more."""
        self._giving_way.set()

    async def run(self) -> bool:
        """Work until the batch has ended; False if this gateway stops before, or the batch gives way."""
        if self._batch.status == "validating":
            await self._validate()
        if self._batch.status == "in_progress":
            await self._answer()
        if self._batch.status in ("in_progress", "failed"):
            return self._batch.status == "failed"
        await self._finish()
        return True

    # Validation

    async def _validate(self) -> None:
        checker = Checker(self._batch.endpoint)
        try:
            async with aclosing(self._shop.contents.lines(self._batch.input_file_id)) as lines:
                async for number, text in lines:
                    checker.add(number, text)
                    if checker.full:
                        break
                    if number % _PAGE == 0:
                        await self._save()
        except MeshError as error:
            checker.errors.append(InputError("missing_file", f"the input file cannot be read: {error.message}"))
        checker.finish()

        def change(batch: BatchObject) -> None:
            if batch.status != "validating":
                return  # it was cancelled
            now = int(time.time())
            if checker.errors:
                batch.status, batch.failed_at, batch.errors = "failed", now, InputErrors(checker.errors)
            else:
                batch.status, batch.in_progress_at = "in_progress", now
                batch.request_counts.total = checker.total

        await self._save(change)
        if self._batch.status == "failed":
            self._shop.metrics.batches.labels(self._batch.endpoint, "failed").inc()

    # Answers

    async def _answer(self) -> None:
        """Until all lines have results, or the batch is cancelled, or has expired, or this gateway stops."""
        lines = asyncio.create_task(self._answer_lines(await self._batches.finished(self._batch.id)))
        try:
            while not lines.done() and self._batch.status == "in_progress" and not self._expired:
                await self._flush()
                await self._wait(lines)
        finally:
            lines.cancel()
            await asyncio.wait({lines})
        await self._flush()
        if not lines.cancelled():
            lines.result()
        if self._expired or not (lines.cancelled() or self._stops):
            await self._save(_finalizing)

    @property
    def _rest(self) -> int:
        """Lines without results."""
        counts = self._batch.request_counts
        return counts.total - counts.completed - counts.failed

    @property
    def _stops(self) -> bool:
        return self._shop.draining() or self._giving_way.is_set()

    @property
    def _expired(self) -> bool:
        return time.time() >= self._batch.expires_at

    async def _wait(self, lines: asyncio.Task[None]) -> None:
        """Until there is news, or it is time to say that this gateway is still there."""
        self._news.clear()
        if self._results or lines.done():
            return
        news = asyncio.create_task(self._news.wait())
        try:
            left = max(0.0, self._batch.expires_at - time.time())
            await asyncio.wait({lines, news}, timeout=min(self._shop.beat, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    async def _answer_lines(self, finished: set[int]) -> None:
        failure: MeshError | None = None
        begun = asyncio.Semaphore(self._shop.at_once)
        async with asyncio.TaskGroup() as group:
            try:
                async with aclosing(self._lines(finished)) as lines:
                    async for number, line in lines:
                        await begun.acquire()
                        if self._stops:
                            return
                        task = group.create_task(self._answer_line(number, line))
                        task.add_done_callback(lambda _: begun.release())
            except MeshError as error:
                failure = error  # out of the group, which would end what is under way
        if failure is not None:
            raise failure

    async def _lines(self, finished: set[int]) -> AsyncGenerator[tuple[int, Line]]:
        async with aclosing(self._shop.contents.lines(self._batch.input_file_id)) as lines:
            async for number, text in lines:
                if number not in finished:
                    yield number, read_line(text)

    async def _answer_line(self, number: int, line: Line) -> None:
        """Ask until there is an answer that is not "later"."""
        reply = await self._ask(number, line)
        while _is_later(reply):
            if self._stops:
                return
            # Until there is room again one line asks for all: that can take long, and the places are not ours alone.
            async with self._asking_again:
                if self._stops:
                    return
                if self._full:
                    await self._pause(_wait_of(reply))
                    reply = await self._ask(number, line)
                    continue
            reply = await self._ask(number, line)
        if reply.status == 200:
            self._usage.add(spent_on(reply.body))
        request_id = reply.headers.get("x-request-id", self._request_id(number))
        response = LineResponse(reply.status, request_id, _body(reply))
        self._add(number, DONE if reply.status == 200 else FAILED, OutputLine("", line.custom_id, response, None))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._giving_way.wait()

    async def _ask(self, number: int, line: Line) -> Reply:
        async with self._shop.places.one(self._inside.tenant, self._batch.id):
            request_id = self._request_id(number)
            reply = await self._shop.call(self._batch.endpoint, bytes(line.body), request_id, self._inside)
        self._full = _is_later(reply)
        return reply

    def _request_id(self, number: int) -> str:
        return f"{self._batch.id}-{number}"

    def _add(self, number: int, part: str, line: OutputLine) -> None:
        line.id = f"batch_req_{_digest(self._batch.id, str(number))}"
        self._results.append(Result(number, part, msgspec.json.encode(line)))
        self._shop.metrics.batch_requests.labels(self._batch.endpoint, part).inc()
        self._news.set()

    async def _flush(self) -> None:
        """Keep the results that are there, with their counts; without any, say that this gateway is still there."""
        results, self._results = self._results, []
        usage, self._usage = self._usage, BatchUsage()

        def change(batch: BatchObject) -> None:
            batch.request_counts.completed += sum(each.part == DONE for each in results)
            batch.request_counts.failed += sum(each.part == FAILED for each in results)
            batch.usage.add(usage)

        await self._save(change, results)

    # The end

    async def _finish(self) -> None:
        """Write the output. Its files have the same ids however often it is written."""
        expired = self._batch.status == "finalizing" and self._rest > 0
        if expired:
            await self._fail_rest()
        output, errors = await self._write(DONE, "output"), await self._write(FAILED, "error")

        def change(batch: BatchObject) -> None:
            now = int(time.time())
            batch.output_file_id = output and output.id
            batch.error_file_id = errors and errors.id
            if batch.status == "cancelling":
                batch.status, batch.cancelled_at = "cancelled", now
            elif expired:
                batch.status, batch.expired_at = "expired", now
            else:
                batch.status, batch.completed_at = "completed", now

        await self._save(change, files=[file for file in (output, errors) if file is not None])
        self._shop.metrics.batches.labels(self._batch.endpoint, self._batch.status).inc()
        counts = self._batch.request_counts
        facts = kv(batch=self._batch.id, status=self._batch.status, completed=counts.completed, failed=counts.failed)
        log.info("batch ended", extra=facts)

    async def _fail_rest(self) -> None:
        error = LineError("batch_expired", "the batch has expired before this request was answered")
        finished = await self._batches.finished(self._batch.id)
        async with aclosing(self._lines(finished)) as lines:
            async for number, line in lines:
                self._add(number, FAILED, OutputLine("", line.custom_id, None, error))
                if len(self._results) >= _PAGE:
                    await self._flush()
        await self._flush()

    async def _write(self, part: str, name: str) -> KeptFile | None:
        """A file of the results of a part; None if there are none."""
        if not await self._batches.results(self._batch.id, part, 0, 1):
            return None
        file_id = f"file-{_digest(self._batch.id, name)}"
        size = await self._shop.contents.write(file_id, self._read(part))
        after = self._batch.output_expires_after
        seconds = after.seconds if after is not msgspec.UNSET else None
        return kept_file(file_id, f"{self._batch.id}_{name}.jsonl", OUTPUT, size, seconds)

    async def _read(self, part: str) -> AsyncIterator[bytes]:
        behind = 0
        while page := await self._batches.results(self._batch.id, part, behind, _PAGE):
            yield b"".join(each.body + b"\n" for each in page)
            behind = page[-1].line
            await self._save()

    async def _save(
        self,
        change: Callable[[BatchObject], None] | None = None,
        results: Sequence[Result] = (),
        files: Iterable[KeptFile] = (),
    ) -> None:
        def edit(body: bytes) -> KeptBatch:
            batch = msgspec.json.decode(body, type=BatchObject)
            if change is not None:
                change(batch)
            return KeptBatch(batch.status, msgspec.json.encode(batch))

        body = await self._batches.save(self._batch.id, self._owner, results, edit, list(files))
        self._batch = msgspec.json.decode(body, type=BatchObject)


def _finalizing(batch: BatchObject) -> None:
    if batch.status == "in_progress":
        batch.status, batch.finalizing_at = "finalizing", int(time.time())


def _body(reply: Reply) -> object:
    """The answer as it is, if it is JSON, which all of ours are."""
    return msgspec.Raw(reply.body) if reply.body else None


def _is_later(reply: Reply) -> bool:
    return reply.status in _LATER and _NEVER not in reply.body


def _wait_of(reply: Reply) -> float:
    """Seconds after which to ask again."""
    text = reply.headers.get("retry-after-ms", "1000")
    return min(max(0.05, int(text) / 1000 if text.isdigit() else 1.0), _LONGEST_WAIT)


def _digest(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
