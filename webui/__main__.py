"""`mesh-webui`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from mesh.config import ConfigError, fail, parse
from mesh.log import setup
from webui.config import WebConfig

_PROG = "mesh-webui"


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; exit code 0, or 2 with one sentence if it cannot start."""
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
    try:
        serve(config)
    except (AddressTaken, ConfigError, StoreUnavailable) as error:
        fail(_PROG, str(error))


if __name__ == "__main__":
    main()
