"""A small HTTP client of the gateway, with the standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mesh.cli.answering.endpoint import Body, End, Event, Piece
from mesh.errors import MeshError, invalid

# An answer can take long, a connection cannot.
_CONNECT_LIMIT = 5.0
_KEY = re.compile(r"[!-~]*")
# What reading an answer raises that has another form.
_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError)


class GatewayClient:
    """The gateway at a URL such as http://127.0.0.1:8000, an Endpoint; each call is a connection of its own.

    `patience` is how many seconds of silence end a call.
    """

    def __init__(self, url: str, api_key: str | None = None, *, patience: float = 300.0) -> None:
        parts = _split(url)
        if api_key is not None and not _KEY.fullmatch(api_key):
            raise invalid("api_key", "--api-key must be printable ASCII without spaces, as keys are")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._patience = patience
        self._secure = parts.scheme == "https"
        self._netloc = parts.netloc
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    @property
    def where(self) -> str:
        """Its address."""
        return self.url

    def models(self) -> list[str]:
        """Names of the served models, adapters last.

        Raises ConnectionError if nobody answers, MeshError if it refuses.
        """
        answer = self._request("GET", "/v1/models", None)
        try:
            body: dict[str, Any] = json.loads(answer.read())
            models = sorted(body["data"], key=lambda model: model.get("parent") is not None)
            return [str(model["id"]) for model in models]
        except (OSError, HTTPException, *_NOT_OURS) as error:
            raise ConnectionError(f"what answers there is no gateway: {error}") from None
        finally:
            answer.close()

    def answer(self, body: Body) -> Generator[Event]:
        """The answer to a chat as it comes. Closing the iterator hangs up, which ends the generation."""
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        answer = self._request("POST", "/v1/chat/completions", asked)
        try:
            yield from _events(answer)
        except (HTTPException, OSError) as error:
            raise ConnectionError(f"the answer broke off: {error}") from None
        except _NOT_OURS as error:
            raise ConnectionError(f"the answer is none of a gateway: {error!r}") from None
        finally:
            answer.close()

    def close(self) -> None:
        """Nothing is kept open."""

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> HTTPResponse:
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._netloc, timeout=_CONNECT_LIMIT)
        try:
            connection.connect()
            connection.sock.settimeout(self._patience)
            encoded = None if body is None else json.dumps(body).encode()
            # `connection: close` hands the socket over to the response: closing that ends everything.
            connection.request(method, self._base + path, encoded, {**self._headers, "connection": "close"})
            answer = connection.getresponse()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ConnectionError(str(error)) from None
        except BaseException:  # a Ctrl-C while the answer is awaited
            connection.close()
            raise
        if answer.status >= 400:
            with answer:
                raise _refusal(answer)
        return answer


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # the port is no number
        pass
    raise invalid("url", f"--url must be http://host:port or https://host:port, not '{url}'")


def _events(lines: Iterable[bytes]) -> Generator[Event]:
    reason, usage = "stop", dict[str, Any]()
    for line in lines:
        data = line.strip()
        if data == b"data: [DONE]":
            yield End(reason, usage.get("prompt_tokens"), usage.get("completion_tokens"))
            return
        if not data.startswith(b"data: "):
            continue
        chunk: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
        if "error" in chunk:
            raise _error(chunk["error"])
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            yield from _pieces(choice["delta"])
            reason = choice.get("finish_reason") or reason
    raise ConnectionError("no end was sent")


def _pieces(delta: Mapping[str, Any]) -> Generator[Piece]:
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")  # one text by two names
    if reasoning:
        yield Piece(reasoning, reasoning=True)
    if delta.get("content"):
        yield Piece(delta["content"])


def _refusal(answer: HTTPResponse) -> MeshError:
    try:
        error = _error(json.loads(answer.read())["error"])
    except (OSError, HTTPException, *_NOT_OURS):
        return MeshError.from_code("engine_failed", f"the gateway answers with HTTP status {answer.status}")
    retry = answer.getheader("retry-after") or ""
    error.retry_after = float(retry) if retry.isdigit() else None
    return error


def _error(error: dict[str, Any]) -> MeshError:
    return MeshError.from_code(str(error["code"]), str(error["message"]))
