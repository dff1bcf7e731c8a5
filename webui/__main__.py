"""`mesh-webui`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from mesh.config import ConfigError, fail, parse
from mesh.ending import die_of_interrupts
from mesh.log import setup
from webui.config import WebConfig

_PROG = "mesh-webui"


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exit code 0, or 2 with one sentence if it cannot start."""
    die_of_interrupts()
    config = parse(WebConfig, prog=_PROG, env_prefix="MESH_WEBUI_", argv=argv, check=lambda _: None)
    setup("webui")
    for chatty in ("httpx", "httpx2", "alembic"):  # each request to the gateway, each step of a migration
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Gradio reads them when it is imported: no word to anybody about who serves what.
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")
    try:
        from webui.records import StoreUnavailable
        from webui.server import AddressTaken, serve
    except ModuleNotFoundError as error:
        fail(_PROG, f"{error.name} is not installed: pip install 'inference-mesh[webui]'")
    # When it has ended in order, uvicorn raises the signal once more: by default SIGTERM would end us on the spot then,
    # with our folder of temporary files left behind.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        serve(config)
    except (AddressTaken, ConfigError, StoreUnavailable) as error:
        fail(_PROG, str(error))
    except KeyboardInterrupt:
        return


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
