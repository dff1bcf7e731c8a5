"""What a check has found."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fact. `remedy` says what to do about it; skip: why it was not looked at."""

    check: str
    status: Status
    found: str
    remedy: str = ""
