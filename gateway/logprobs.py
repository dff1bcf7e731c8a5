"""Log probabilities of one choice in the two forms of OpenAI's API, for streams and for answers in one piece."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from gateway.answers import Logprobs, TextLogprobs, TokenLogprob, TopLogprob
from mesh.v1 import inference_pb2 as pb


class ChatLogprobs:
    """Those of a chat answer. They wait here while the text that belongs to them is held back."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []

    def __bool__(self) -> bool:
        """Whether any wait."""
        return bool(self._waiting)

    def add(self, entries: Iterable[pb.TokenLogprob]) -> None:
        """The next tokens'."""
        self._waiting += map(_chat_entry, entries)

    def take(self) -> Logprobs:
        """All that wait."""
        waiting, self._waiting = self._waiting, []
        return Logprobs(waiting)


class CompletionLogprobs:
    """Those of a text completion: four parallel lists."""

    def __init__(self) -> None:
        self._waiting = TextLogprobs()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def __bool__(self) -> bool:
        """Whether any wait."""
        return bool(self._waiting.tokens)

    def add(self, entries: Iterable[pb.TokenLogprob]) -> None:
        """The next tokens'. An offset counts the whole characters of the completion before the token."""
        waiting = self._waiting
        for entry in entries:
            token = _token_text(entry.token)
            top = {_token_text(each.token): _finite(each.logprob) for each in entry.top}
            waiting.tokens.append(token)
            waiting.token_logprobs.append(_finite(entry.logprob))
            waiting.top_logprobs.append({**top, token: _finite(entry.logprob)})
            waiting.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(entry.token))

    def take(self) -> TextLogprobs:
        """All that wait."""
        waiting, self._waiting = self._waiting, TextLogprobs()
        return waiting


LogprobBuffer = ChatLogprobs | CompletionLogprobs


def _chat_entry(entry: pb.TokenLogprob) -> TokenLogprob:
    """A token's log probability; its bytes may be a part of a character, which the text cannot show."""
    top = [
        TopLogprob(each.token.decode(errors="replace"), _finite(each.logprob), list(each.token)) for each in entry.top
    ]
    return TokenLogprob(entry.token.decode(errors="replace"), _finite(entry.logprob), list(entry.token), top)


def _token_text(token: bytes) -> str:
    """OpenAI's way to write a token that is no whole text: two of them must not look the same."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI's value for "practically impossible" is -9999."""
    return max(logprob, -9999.0)
