"""A small HTTP client of the gateway, with the standard library only."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from mesh.errors import MeshError, invalid

# An answer can take long, a connection cannot.
_CONNECT_LIMIT = 5.0


class GatewayClient:
    """The gateway at a URL such as http://127.0.0.1:8000; each call is a connection of its own.

    `patience` is how many seconds of silence end a call.
    """

    def __init__(self, url: str, api_key: str | None = None, *, patience: float = 300.0) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise invalid("url", f"--url must be http://host:port or https://host:port, not '{url}'")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._patience = patience
        self._secure = parts.scheme == "https"
        self._netloc = parts.netloc
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    def models(self) -> list[str]:
        """Names of the served models, adapters last.

        Raises ConnectionError if nobody answers, MeshError if it refuses.
        """
        answer = self._request("GET", "/v1/models", None)
        try:
            body: dict[str, Any] = json.loads(answer.read())
        finally:
            answer.close()
        return [str(model["id"]) for model in sorted(body["data"], key=lambda model: model.get("parent") is not None)]

    def stream_chat(self, body: Mapping[str, Any]) -> Generator[str]:
        """The pieces of text of an answer as they come. Closing the iterator hangs up, which ends the generation."""
        answer = self._request("POST", "/v1/chat/completions", {**body, "stream": True})
        try:
            for line in answer:
                data = line.strip()
                if data == b"data: [DONE]":
                    return
                if data.startswith(b"data: "):
                    yield _text(json.loads(data.removeprefix(b"data: ")))
            raise ConnectionError("the answer broke off")
        except HTTPException as error:
            raise ConnectionError(f"the answer broke off: {error}") from None
        finally:
            answer.close()

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
        if answer.status >= 400:
            with answer:
                raise _refusal(answer.status, answer.read())
        return answer


def _text(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise _error(chunk["error"])
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))


def _refusal(status: int, body: bytes) -> MeshError:
    try:
        return _error(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return MeshError.from_code("engine_failed", f"the gateway answers with HTTP status {status}")


def _error(error: dict[str, Any]) -> MeshError:
    return MeshError.from_code(str(error["code"]), str(error["message"]))
