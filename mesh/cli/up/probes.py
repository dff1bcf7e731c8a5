"""Whether what runs on this machine answers yet."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

# Who listens on the port may be somebody else, who never answers.
_PATIENCE = 2.0


def lists_models(url: str, wanted: set[str]) -> bool:
    """Whether the gateway there lists these models, or asks for a key."""
    try:
        answer: Any = json.loads(_get(f"{url}/v1/models"))
        return wanted <= {model["id"] for model in answer["data"]}
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 401  # it answers, though not to us
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return False


def answers(url: str) -> bool:
    """Whether somebody answers there, and does not refuse."""
    try:
        _get(url)
    except (OSError, HTTPException, ValueError):
        return False
    return True


def _get(url: str) -> bytes:
    # Asked is whether it runs. Its certificate is for the name by which others know it.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(url, timeout=_PATIENCE, context=context) as answer:
        return answer.read()
