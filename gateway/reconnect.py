"""The ids of server-sent events, by which any gateway can go on with an answer where its client lost it.

A client that asks for it (`x-mesh-reconnect: 1`) gets an `id:` with each event. After a break it sends the same request
once more with the last one as `Last-Event-ID`, to whichever gateway. An id says which answer it belongs to, where the
generation may be kept, and how many events of each choice the client has. The answer is then rendered from its
beginning, from the events that its worker has kept or by computing it again, and the client gets those that it lacks.

An id holds no secret and needs none: what a worker keeps is found by a hash of the answer's nonce, the tenant and the
request itself, so nobody reaches it who could not have asked for it. What was sent is checked by a checksum of the text
of each choice: an answer that comes out differently is not continued.
"""

from __future__ import annotations

import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from zlib import crc32

from werkzeug.datastructures import Headers

from gateway.routing.keeping import NOWHERE, Keeping, tag
from mesh.errors import ErrorKind, MeshError, invalid
from mesh.v1 import inference_pb2 as pb

WISH = "x-mesh-reconnect"
LAST_EVENT_ID = "Last-Event-ID"

# Version, nonce, created, cached tokens, tags of model and worker, check: 45 bytes, 60 characters.
_HEAD = Struct(">B16sII6s6s8s")
_HEAD_CHARACTERS = 60
_VERSION = 1
_NONCE_BYTES = 16
_KEY_BYTES = 16
_CHECK_BYTES = 8
_SEEDS = 2**63
_MALFORMED = "'Last-Event-ID' is not an event id of this gateway"


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells an answer from all others, also from a later one to the same request; and when it was begun, in
    seconds since 1970."""

    nonce: bytes
    created: int

    @classmethod
    def new(cls) -> Identity:
        """That of an answer that now begins."""
        return cls(secrets.token_bytes(_NONCE_BYTES), int(time.time()))

    def name(self, kind: str) -> str:
        """The answer's id for clients."""
        return f"{kind}-{self.nonce.hex()}"

    def seed(self, prompt: int = 0) -> int:
        """The seed of one of the request's prompts that was sent without one: the same whenever it is computed."""
        return int.from_bytes(blake2b(self.nonce, digest_size=8, salt=b"%d" % prompt).digest()) % _SEEDS


@dataclass(frozen=True, slots=True)
class Place:
    """How far a client has come: for each choice its events and the checksum of their text; the events after all."""

    choices: Sequence[tuple[int, int]]
    tail: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What an answer was begun with and keeps, wherever it is computed. `model`: the tag of its fingerprint."""

    identity: Identity
    cached_tokens: int
    model: bytes

    def check(self, key: bytes) -> bytes:
        """Binds them to the request and its tenant."""
        data = _HEAD.pack(_VERSION, b"", self.identity.created, self.cached_tokens, self.model, b"", b"")
        return blake2b(data, key=key, digest_size=_CHECK_BYTES).digest()


@dataclass(frozen=True, slots=True)
class EventId:
    """An id as a client sends it back. `worker`: the tag of the one where the generation may be kept."""

    facts: Facts
    worker: bytes
    check: bytes
    place: Place

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Raises MeshError if it is none."""
        head, _, lanes = text.partition(".")
        try:
            if len(head) != _HEAD_CHARACTERS:
                raise ValueError(head)
            version, nonce, created, cached, model, worker, check = _HEAD.unpack(urlsafe_b64decode(head))
            place = _place(lanes)
        except ValueError:
            raise invalid(LAST_EVENT_ID, _MALFORMED) from None
        if version != _VERSION:
            raise invalid(LAST_EVENT_ID, f"{_MALFORMED}: its version is {version}, not {_VERSION}")
        return cls(Facts(Identity(nonce, created), cached, model), worker, check, place)


def _place(text: str) -> Place:
    """`<events>-<checksum>` for each choice, then perhaps the events after all."""
    *choices, last = text.split(".")
    tail = 0 if "-" in last else int(last)
    found = [lane.split("-") for lane in (choices if tail else [*choices, last])]
    return Place([(int(count), int(check, 16)) for count, check in found], tail)


@dataclass(frozen=True, slots=True)
class Reconnect:
    """What a request has to do with reconnecting. `key` is None if its client did not ask for it; `after` is the last
    event of an answer that was begun before."""

    identity: Identity
    key: bytes | None = None
    after: EventId | None = None

    @classmethod
    def of(
        cls, headers: Headers, *, stream: bool, tenant: str, path: str, body: bytes, more: Iterable[bytes] = ()
    ) -> Reconnect:
        """What the headers of a request say. `more` are the parts of the request that its body only names.

        Raises MeshError for an id that does not belong to this request.
        """
        if not stream:
            _refuse_in_one_piece(headers)
        last = headers.get(LAST_EVENT_ID)
        if not (_wished(headers) or last):
            return cls(Identity.new())
        after = EventId.parse(last) if last else None
        identity = after.facts.identity if after is not None else Identity.new()
        key = _key(identity.nonce, (tenant.encode(), path.encode(), body, *more))
        if after is not None and not compare_digest(after.check, after.facts.check(key)):
            raise invalid(
                LAST_EVENT_ID,
                "'Last-Event-ID' does not belong to this request: the same body must be sent again, with the same key",
            )
        return cls(identity, key, after)

    def complete(self, *, include_usage: bool) -> bool:
        """Whether the client has the whole answer."""
        return self.after is not None and self.after.place.tail > include_usage

    def keeping(self, seconds: float, *, alone: bool) -> Keeping | None:
        """How the generation is kept; `alone`: it is the only one of the answer. None if its client did not ask."""
        if self.key is None:
            return None
        key = self.key if alone and seconds else None
        if self.after is None:
            return Keeping(key, seconds)
        return Keeping(key, seconds, model=self.after.facts.model, worker=self.after.worker)

    def ids(self, choices: int) -> EventIds | None:
        """For an answer with so many choices; None if its client did not ask. Raises MeshError as `of` does."""
        if self.key is None:
            return None
        if self.after is not None and len(self.after.place.choices) != choices:
            raise invalid(LAST_EVENT_ID, _MALFORMED)
        return EventIds(self.identity, self.key, choices, self.after)


def _refuse_in_one_piece(headers: Headers) -> None:
    for name in (WISH, LAST_EVENT_ID):
        if headers.get(name, "0") not in ("0", ""):
            raise invalid(name, f"'{name}' needs 'stream': true; an answer in one piece is asked for again")


def _wished(headers: Headers) -> bool:
    wish = headers.get(WISH, "0")
    if wish not in ("0", "1"):
        raise invalid(WISH, f"'{WISH}' must be 0 or 1, not '{wish[:20]}'")
    return wish == "1"


def _key(nonce: bytes, parts: Iterable[bytes]) -> bytes:
    """Names a generation: only who could ask for it can name it."""
    found = blake2b(nonce, digest_size=_KEY_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.digest()


class EventIds:
    """Makes the ids of an answer, and knows which of its events the client has from before. The hot path of answers
    that have ids."""

    def __init__(self, identity: Identity, key: bytes, choices: int, after: EventId | None) -> None:
        self._key = key
        self._begun_before = after is not None
        self._facts = after.facts if after is not None else Facts(identity, 0, NOWHERE)
        self._worker = NOWHERE
        self._head = b""
        had = after.place if after is not None else Place([(0, 0)] * choices, 0)
        self._had = [count for count, _ in had.choices]
        self._had_checks = [check for _, check in had.choices]
        self._had_tail = had.tail
        self._counts = [0] * choices
        self._checks = [0] * choices
        self._tail = 0
        self._lanes = [b"%d-%x" % lane for lane in had.choices]

    def begin(self, started: pb.Started) -> None:
        """The answer begins; one that the client has a part of keeps the facts that it was begun with."""
        if self._begun_before:
            # A client can write an id of its own: what it says there must not count for more than is possible.
            started.cached_tokens = min(self._facts.cached_tokens, started.prompt_tokens)
        else:
            self._facts = Facts(self._facts.identity, started.cached_tokens, tag(started.fingerprint))
        self._write_head()

    def at(self, worker: bytes) -> None:
        """The generation is kept at this worker from now on."""
        if worker != self._worker:
            self._worker = worker
            self._write_head()

    def _write_head(self) -> None:
        facts, identity = self._facts, self._facts.identity
        numbers = (_VERSION, identity.nonce, identity.created, facts.cached_tokens)
        head = _HEAD.pack(*numbers, facts.model, self._worker, facts.check(self._key))
        self._head = b"id: " + urlsafe_b64encode(head) + b"."

    def next(self, choice: int, text: bytes = b"") -> bytes | None:
        """The id of the next event of a choice, as a line; None if the client has that event. `text` is what the event
        adds. Raises MeshError if the client has something else in its place."""
        count = self._counts[choice] = self._counts[choice] + 1
        check = self._checks[choice] = crc32(text, self._checks[choice])
        had = self._had[choice]
        if count <= had:
            if count == had and check != self._had_checks[choice]:
                raise _differs()
            return None
        self._lanes[choice] = b"%d-%x" % (count, check)
        return b"%b%b\n" % (self._head, b".".join(self._lanes))

    def next_of_all(self) -> bytes | None:
        """The same for an event that comes after all choices."""
        if any(count < had for count, had in zip(self._counts, self._had, strict=True)):
            raise _differs()
        self._tail += 1
        if self._tail <= self._had_tail:
            return None
        return b"%b%b.%d\n" % (self._head, b".".join(self._lanes), self._tail)


def _differs() -> MeshError:
    text = "the answer came out differently when it was computed again, and cannot be continued"
    return MeshError(ErrorKind.WORKER_LOST, text)
