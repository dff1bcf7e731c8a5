"""Models in Anthropic's shape, at the same paths as in OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from gateway.anthropic.answers import ModelInfo, ModelPage
from gateway.routing.directory import Offer
from mesh.errors import invalid, out_of_range

_LIMIT: Final = 20
_MOST: Final = 1000


def model_info(offer: Offer) -> ModelInfo:
    """One model."""
    length = offer.context_length
    return ModelInfo(
        id=offer.name,
        display_name=offer.name,
        created_at=datetime.fromtimestamp(offer.created, UTC).isoformat().replace("+00:00", "Z"),
        max_input_tokens=length,
        max_tokens=length,
    )


def model_page(offers: Sequence[Offer], query: Mapping[str, str]) -> ModelPage:
    """The models that a query asks for (`limit`, `after_id`, `before_id`). Raises invalid_request."""
    limit = _limit(query.get("limit", str(_LIMIT)))
    names = [offer.name for offer in offers]
    low, high = 0, len(offers)
    if "after_id" in query:
        low = _place(names, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        high = _place(names, "before_id", query["before_id"])
    backwards = "before_id" in query and "after_id" not in query
    page = offers[low:high][-limit:] if backwards else offers[low:high][:limit]
    found = [model_info(offer) for offer in page]
    first, last = (found[0].id, found[-1].id) if found else (None, None)
    return ModelPage(found, has_more=high - low > len(found), first_id=first, last_id=last)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise invalid("limit", f"'limit' must be a whole number, not '{text[:64]}'")
    limit = int(text)
    if not 1 <= limit <= _MOST:
        raise out_of_range("limit", limit, 1, _MOST)
    return limit


def _place(names: Sequence[str], param: str, name: str) -> int:
    if name not in names:
        raise invalid(param, f"'{param}' must be the id of a model, not '{name[:200]}'")
    return names.index(name)
