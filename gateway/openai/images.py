"""The images of a chat request, as bytes: decoded from data URLs, or fetched from the web within limits.

A client that names a URL makes this machine connect somewhere. So the host's addresses are looked up here, all of them
are checked, and the connection goes to a checked one: no second answer of the name server can lead elsewhere. The same
holds for each redirect.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from gateway.openai.chat_schema import ChatRequest
from gateway.openai.messages import ImageUrl
from mesh.errors import MeshError, invalid
from mesh.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    import httpcore

_MAGIC: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_REDIRECTS: Final = 3
# All images of a request together: they travel to the worker in one message.
_MOST_BYTES: Final = 40 * 2**20
# Prefixes of IPv6 under which IPv4 addresses are reached.
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# All that was ever given out of IPv6. Outside there are more forms of IPv4 addresses (::127.0.0.1, ::ffff:0:127.0.0.1)
# and old private ranges, which Python's tables call global.
_GIVEN_OUT: Final = ipaddress.ip_network("2000::/3")
_DOCUMENTATION: Final = ipaddress.ip_network("3fff::/20")  # newer than some of those tables

Where = tuple[int, int]
"""A place in a chat: message and part."""
Images = dict[Where, pb.Image]


_OWN_NAMES: Mapping[Where, str] = {}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """`urls` says whether images are fetched at all, `hosts` from where (none is anywhere), `private` whether from
    addresses that are not public. `count` a request, `size` in bytes an image, `seconds` for all of a request."""

    urls: bool = True
    hosts: frozenset[str] = frozenset()
    private: bool = False
    count: int = 16
    size: int = 8 * 2**20
    seconds: float = 10.0


async def read_images(chat: ChatRequest, limits: ImageLimits, names: Mapping[Where, str] = _OWN_NAMES) -> Images:
    """The images of a request by message and part. Raises invalid_request naming the part and the limit.

    `names`: what clients of another API call them.
    """
    found = {
        (index, place): part.image_url if isinstance(part.image_url, ImageUrl) else ImageUrl(part.image_url or "")
        for index, message in enumerate(chat.messages)
        for place, part in enumerate(message.content if isinstance(message.content, list) else ())
        if part.type == "image_url"
    }
    if len(found) > limits.count:
        raise invalid("messages", f"'messages' must hold at most {limits.count} images, not {len(found)}")
    images: Images = {}
    try:
        async with asyncio.timeout(limits.seconds), asyncio.TaskGroup() as group:
            tasks = {
                where: group.create_task(_read(names.get(where) or _param(*where), url, limits))
                for where, url in found.items()
            }
    except* MeshError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    except* TimeoutError:
        raise invalid("messages", f"the images of 'messages' were not there within {limits.seconds:g} s") from None
    for where, task in tasks.items():
        data, media_type = task.result()
        images[where] = pb.Image(data=data, media_type=media_type, detail=found[where].detail or "")
    total = sum(len(image.data) for image in images.values())
    if total > _MOST_BYTES:
        raise invalid("messages", f"the images of 'messages' must have at most {_MOST_BYTES} bytes, not {total}")
    return images


def _param(index: int, place: int) -> str:
    return f"messages[{index}].content[{place}].image_url.url"


async def _read(param: str, image: ImageUrl, limits: ImageLimits) -> tuple[bytes, str]:
    """An image's bytes and media type."""
    scheme = image.url[:8].partition(":")[0].lower()
    if scheme == "data":
        data = _decode(param, image.url, limits)
    elif scheme in ("http", "https"):
        if not limits.urls:
            raise invalid(param, f"'{param}' must be a data URL: this gateway fetches no images")
        data = await _fetch(param, image.url, limits)
    else:
        raise invalid(param, f"'{param}' must be a data, http or https URL, not '{image.url[:32]}'")
    media_type = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        media_type = "image/webp"
    if media_type is None:
        raise invalid(param, f"'{param}' is no PNG, JPEG, WebP or GIF image")
    return data, media_type


def _decode(param: str, url: str, limits: ImageLimits) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise invalid(param, f"'{param}' must be of the form 'data:image/...;base64,...', not '{head[:64]}'")
    _check_size(param, len(body) * 3 // 4 - 2, limits)
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(param, f"'{param}' is not valid base64") from None
    _check_size(param, len(data), limits)
    return data


def _check_size(param: str, size: int, limits: ImageLimits) -> None:
    if size > limits.size:
        raise invalid(param, f"'{param}' must have at most {limits.size} bytes, not {size}")


async def _fetch(param: str, url: str, limits: ImageLimits) -> bytes:
    import httpcore  # with the first image: it takes a tenth of a second

    try:
        async with httpcore.AsyncConnectionPool(network_backend=_backend(param, limits)) as pool:
            for _ in range(_REDIRECTS + 1):
                _check_url(param, url, limits)
                async with _get(pool, url) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        return await _body(param, response, limits)
                    url = urljoin(url, _header(response, b"location"))
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ValueError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise invalid(param, f"'{param}' cannot be fetched: {reason[:200]}") from error
    raise invalid(param, f"'{param}' leads through more than {_REDIRECTS} redirects")


@asynccontextmanager
async def _get(pool: httpcore.AsyncConnectionPool, url: str) -> AsyncGenerator[httpcore.Response]:
    named = {"host": urlsplit(url).netloc, "accept": "image/*", "accept-encoding": "identity", "user-agent": "mesh"}
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    async with pool.stream("GET", url, headers=headers) as response:
        yield response


def _check_url(param: str, url: str, limits: ImageLimits) -> None:
    """Refuse what is no plain web address, and hosts that are not on the list. Raises ValueError for a bad port."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or parts.username is not None:
        raise invalid(param, f"'{param}' leads to '{url[:100]}', which is no plain http or https address")
    if limits.hosts and parts.hostname not in limits.hosts:
        raise invalid(param, f"'{param}' leads to '{parts.hostname[:100]}', which this gateway does not fetch from")


async def _body(param: str, response: httpcore.Response, limits: ImageLimits) -> bytes:
    if response.status != 200:
        raise invalid(param, f"'{param}' answers with status {response.status}")
    kind = _header(response, b"content-type").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in ("application/octet-stream", "binary/octet-stream"):
        raise invalid(param, f"'{param}' is of type '{kind[:64]}', not an image")
    length = _header(response, b"content-length")
    _check_size(param, int(length) if length.isdigit() else 0, limits)
    data = bytearray()
    async for chunk in response.aiter_stream():
        data += chunk
        _check_size(param, len(data), limits)
    return bytes(data)


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _backend(param: str, limits: ImageLimits) -> httpcore.AsyncNetworkBackend:
    """Connections to addresses that were checked, instead of to names."""
    import httpcore

    class Checked(httpcore.AsyncNetworkBackend):
        def __init__(self) -> None:
            self._plain: Any = httpcore.AnyIOBackend()

        async def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
        ) -> httpcore.AsyncNetworkStream:
            address = await _public_address(param, host, port, private=limits.private)
            return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)

    return Checked()


async def _public_address(param: str, host: str, port: int, *, private: bool) -> str:
    """An address of the host, all of whose addresses must be public unless `private` allows others."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not private and not is_public(address):
            text = f"'{param}' leads to '{host[:100]}', whose address {address} is not one of the open internet"
            raise invalid(param, text)
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, that of an IPv4 host inside an IPv6 address included."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GIVEN_OUT or ip in _DOCUMENTATION:
            return False
    return ip.is_global and not ip.is_multicast
