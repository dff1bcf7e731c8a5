"""TLS of the HTTP server, with certificates that may be replaced while it runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from mesh.errors import MeshError
from mesh.files import versions
from mesh.log import kv
from mesh.wire import Tls, check_pair, warn_of_expiry

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class HttpTls:
    """The server's certificate. `watch` has new connections use a new one within a second or so; those that stand keep
    the one that they began with."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises MeshError if the files cannot be used."""
        self._tls = Tls(cert=cert, key=key)
        self._seen = versions((cert, key))
        check_pair(self._tls)
        warn_of_expiry(cert)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(cert, key)

    async def watch(self) -> None:
        """For ever. What cannot be used is logged and changes nothing."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            now = versions((self._tls.cert, self._tls.key))
            if now != self._seen:
                self._seen = now
                self._load()

    def _load(self) -> None:
        assert self._tls.cert is not None
        try:
            check_pair(self._tls)  # a context that took half of a bad pair would serve nobody
            self.context.load_cert_chain(self._tls.cert, self._tls.key)
        except (MeshError, OSError) as error:
            log.warning("the new certificate cannot be used, going on with the one before", extra=kv(why=str(error)))
        else:
            log.info("the certificate was replaced", extra=kv(cert=str(self._tls.cert)))
            warn_of_expiry(self._tls.cert)
