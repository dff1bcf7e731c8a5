"""What a prompt begins with, as hashes that two requests share as far as their prompts are the same.

Over the request itself, before any template or tokenizer, which the gateway does not have: what a worker may not share
(model, tenant, salt), then tools, then messages or text. A running hash is read off at marks: at the ends of messages
and within long ones, ever farther apart, so that a megabyte has some hundred marks and not thousands.

Every gateway computes the same hashes. `key` alone places a conversation, so gateways that never talk to each other
agree where it goes: it ends within the first message after the system's, which is there in every turn.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from mesh.v1 import inference_pb2 as pb

# Bytes of the first message that is not the system's, or of a raw prompt, that place a conversation.
KEY_BYTES = 1024
# Bytes between two marks: at least so many, then this share of what comes before them. A message's end is one sooner.
_BLOCK = 256
_SHARE = 16
_END_SHARE = 32
# A picture counts as so much text, some 500 tokens, whatever the size of its file.
_IMAGE_BYTES = 2048
# A guess for text; token ids are read as so many bytes each.
_BYTES_PER_TOKEN = 4
_SYSTEM = frozenset(("system", "developer"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a prompt: the hash of all before it, how many bytes that is, whether they end in the model's words."""

    digest: int
    size: int
    answer: bool


class Prefix:
    """The marks of a prompt, in order."""

    def __init__(self, request: pb.GenerateRequest) -> None:
        """Costs about a microsecond a mark, and the hashing of all bytes."""
        self._hash = blake2b(_scope(request), digest_size=8)
        self.size = 0
        self.key = 0
        self.key_size = 0
        self.marks: list[Mark] = []
        self._last = 0
        if request.HasField("chat"):
            self._read_chat(request.chat)
        else:
            prompt = request.text.encode() if request.HasField("text") else array("I", request.tokens.ids).tobytes()
            self._read_placing(prompt, False)

    def _read_chat(self, chat: pb.ChatPrompt) -> None:
        placed = False
        for message in chat.messages:
            data = b"".join(_message(message))
            answer = message.role == "assistant"
            if placed or message.role in _SYSTEM:
                self._read(data, answer)
            else:
                self._read_placing(data, answer)
                placed = True
            if self.size - self._last > self.size // _END_SHARE:
                self._mark(answer)
        if not placed:
            self._place(False)

    def _read_placing(self, data: bytes, answer: bool) -> None:
        """Read on, over the place that decides where a conversation goes."""
        self._read(data[:KEY_BYTES], answer)
        self._place(answer)
        self._read(data[KEY_BYTES:], answer)

    def _place(self, answer: bool) -> None:
        if self.size > self._last or not self.marks:
            self._mark(answer)
        self.key, self.key_size = self.marks[-1].digest, self.size

    def _read(self, data: bytes, answer: bool) -> None:
        """Read on, and mark what lies inside."""
        view, start = memoryview(data), 0
        while True:
            due = self._last + max(_BLOCK, self._last // _SHARE)
            end = start + due - self.size
            piece = view[start:end]
            self._hash.update(piece)
            self.size += len(piece)
            start = end
            if self.size < due:
                return
            self._mark(answer)

    def _mark(self, answer: bool) -> None:
        self.marks.append(Mark(self._digest(), self.size, answer))
        self._last = self.size

    def _digest(self) -> int:
        return int.from_bytes(self._hash.copy().digest(), "big")


class PrefixTable:
    """Which processes have seen which marks, for the `limit` marks that were used last (about 250 bytes each).

    For a mark at most `PLACES` of them, the latest: what more have seen is likely to be everywhere.
    """

    PLACES = 4

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, prefix: Prefix, process: str) -> None:
        """The process has, or will have, this prompt in its cache."""
        seen = self._seen
        for mark in prefix.marks:
            places = seen.get(mark.digest, ())
            if process not in places:
                seen[mark.digest] = (process, *places[: self.PLACES - 1])
            seen.move_to_end(mark.digest)
        while len(seen) > self._limit:
            seen.popitem(last=False)

    def holders(self, prefix: Prefix) -> Iterator[tuple[str, ...]]:
        """Who has seen what places it, and perhaps more: first those that have seen most."""
        for mark in reversed(prefix.marks):
            if mark.size < prefix.key_size:
                return
            places = self._seen.get(mark.digest)
            if places:
                yield places

    def cached_share(self, prefix: Prefix, process: str) -> float:
        """How much of the prompt the process is likely to have in its cache, 0 to 1.

        Its own answer to what it has seen counts: it computed that too.
        """
        seen = self._seen
        known = next(
            (at for at in reversed(range(len(prefix.marks))) if process in seen.get(prefix.marks[at].digest, ())), None
        )
        if known is None:
            return 0.0
        while known + 1 < len(prefix.marks) and prefix.marks[known + 1].answer:
            known += 1
        return prefix.marks[known].size / max(1, prefix.size)


Request = pb.GenerateRequest | pb.EmbedRequest | pb.ClassifyRequest | pb.TokenizeRequest | pb.DetokenizeRequest


class Prompt:
    """What the policies ask about a request, and what was expected of the worker that was chosen."""

    def __init__(self, request: Request) -> None:
        self.model = request.model
        # The share of the prompt that the chosen worker is believed to have cached; None if nobody asked.
        self.predicted: float | None = None
        self._request = request

    @cached_property
    def prefix(self) -> Prefix | None:
        """Computed when a policy asks for it. None for what leaves nothing in a prefix cache."""
        return Prefix(self._request) if isinstance(self._request, pb.GenerateRequest) else None

    @property
    def tokens(self) -> int:
        """Tokens that the prompt may have."""
        return self.prefix.size // _BYTES_PER_TOKEN if self.prefix is not None else 0


def _scope(request: pb.GenerateRequest) -> bytes:
    """What requests must have in common for one to use what a worker has computed for another."""
    chat = request.chat
    alike: list[bytes] = [part.encode() for part in (request.model, request.adapter, request.tenant)]
    alike += [request.cache_salt.encode(), chat.chat_template.encode()]
    alike.append(chat.template_arguments.SerializeToString(deterministic=True))
    alike.append(chat.template_hints.SerializeToString(deterministic=True))
    alike += [tool.SerializeToString(deterministic=True) for tool in chat.tools]
    return b"".join(len(part).to_bytes(4, "big") + part for part in alike)


def _message(message: pb.ChatMessage) -> Iterable[bytes]:
    """A message, in such a way that of two which begin alike the bytes begin alike."""
    yield f"\x1e{message.role}\x1f{message.name}\x1f{message.tool_call_id}\x1f".encode()
    for part in message.parts:
        yield _image(part.image) if part.HasField("image") else part.text.encode()
    if message.reasoning:
        yield b"\x1f" + message.reasoning.encode()
    for call in message.tool_calls:
        yield f"\x1f{call.name}\x1f{call.arguments_json}".encode()


def _image(image: pb.Image) -> bytes:
    digest = blake2b(image.data, digest_size=16).digest()
    return digest * (_IMAGE_BYTES // len(digest))
