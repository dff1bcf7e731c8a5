"""The counter-based generator of the mesh: one uniform number per (seed, choice, position).

It is the generator that SamplingOptions.seed in inference.proto documents. Because a number is a pure function of its
three coordinates, a request draws the same numbers alone, in a batch, after preemption and after failover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_UNIT: Final = 2.0**-53


def mix(x: int) -> int:
    """SplitMix64's output function of `x` + golden ratio, on integers modulo 2^64."""
    z = (x + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def stream(seed: int, choice: int) -> int:
    """The 64-bit state of one choice; constant over its positions. `seed` is any int64 (two's complement)."""
    return mix(mix(seed & _MASK) ^ choice)


def uniform(state: int, position: int) -> float:
    """The number in [0, 1) of one position; `state` from `stream`."""
    return (mix(state ^ position) >> 11) * _UNIT


def uniforms(states: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """`uniform` of many rows at once; `states` and `positions` are broadcast against each other."""
    import numpy as np  # here, because the smallest installation has none and needs only the functions above

    z = (states ^ positions) + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * _UNIT
