"""Log probabilities of one choice in the two forms of OpenAI's API, for streams and for answers in one piece."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence

from gateway.openai.answers import Logprobs, PromptLogprob, PromptLogprobs, TextLogprobs, TokenLogprob, TopLogprob
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
    """Those of a text completion: four parallel lists.

    With `echo` the prompt's tokens go before, as soon as there are others; the call gives their log probabilities.
    """

    def __init__(self, echo: Callable[[], Sequence[pb.TokenLogprob]] | None = None) -> None:
        self._echo = echo
        self._waiting = TextLogprobs()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def __bool__(self) -> bool:
        """Whether any wait."""
        return bool(self._waiting.tokens)

    def add(self, entries: Iterable[pb.TokenLogprob]) -> None:
        """The next tokens'. An offset counts the whole characters of the tokens before."""
        if self._echo is not None:
            for place, entry in enumerate(self._echo()):
                self._add(entry, known=place > 0)
            self._echo = None
        for entry in entries:
            self._add(entry)

    def _add(self, entry: pb.TokenLogprob, *, known: bool = True) -> None:
        waiting, token = self._waiting, _token_text(entry.token)
        waiting.tokens.append(token)
        waiting.text_offset.append(self._offset)
        self._offset += len(self._decoder.decode(entry.token))
        logprob = _finite(entry.logprob) if known else None
        waiting.token_logprobs.append(logprob)
        top = {_token_text(each.token): _finite(each.logprob) for each in entry.top}
        waiting.top_logprobs.append(None if logprob is None else {**top, token: logprob})

    def take(self) -> TextLogprobs:
        """All that wait."""
        waiting, self._waiting = self._waiting, TextLogprobs()
        return waiting


LogprobBuffer = ChatLogprobs | CompletionLogprobs


def with_top(entries: Iterable[pb.TokenLogprob], top: int) -> list[pb.TokenLogprob]:
    """The same with so many of the likeliest tokens."""
    return [
        pb.TokenLogprob(token_id=each.token_id, logprob=each.logprob, token=each.token, top=each.top[:top])
        for each in entries
    ]


def prompt_logprobs(entries: Sequence[pb.TokenLogprob]) -> PromptLogprobs:
    """Those of a prompt, in the form of vLLM's extension. A token that is none of the likeliest has no rank."""
    found: PromptLogprobs = [None]
    for entry in entries[1:]:
        own = {str(entry.token_id): PromptLogprob(_finite(entry.logprob), None, entry.token.decode(errors="replace"))}
        for rank, each in enumerate(entry.top, start=1):
            text = each.token.decode(errors="replace")
            own[str(each.token_id)] = PromptLogprob(_finite(each.logprob), rank, text)
        found.append(own)
    return found


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
