"""How requests may be spread over a model's workers: what the gateway's flags and the registry share."""

from __future__ import annotations

from typing import Literal, get_args

PolicyName = Literal["prefix_aware", "least_loaded", "round_robin", "random"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
# A worker is too busy above so many times the mean load: at most.
MAX_LOAD_FACTOR = 100.0
# Seconds until a second worker is asked for a first token: at most.
MAX_HEDGE_AFTER = 3600.0
