"""One BLAS thread for small matrices: on busy cores two that wait for each other take a hundred times as long."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """While `function` runs, this process's BLAS computes on the calling thread."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _pools().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@cache
def _pools() -> ThreadpoolController:
    # Looking for the libraries takes milliseconds; numpy's is loaded by now, and is the one that is used here.
    return ThreadpoolController()
