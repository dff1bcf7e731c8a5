"""Which kernels attend over the packed rows: the choice behind --attention."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch

from mesh.engine.transformers.attention.flash_attention import make_flash_attn, make_varlen
from mesh.engine.transformers.attention.paged import PagedKernels
from mesh.errors import invalid

CHOICES = ("auto", "triton", "varlen", "flash_attn", "sdpa")


def find_kernels(name: str, device: torch.device, *, spread: bool = False) -> list[PagedKernels | None]:
    """The kernels to try, in order; None stands for torch's own attention over gathered pages.

    The model decides: it may ask for what some of them cannot do, or be `spread` over several devices, which only
    torch's own attention serves. Raises invalid_request for kernels that are not there.
    """
    if name not in CHOICES:
        raise invalid("attention", f"'attention' must be {', '.join(CHOICES)}, not '{name}'")
    if name == "sdpa" or (name == "auto" and (spread or device.type != "cuda")):
        return [None]
    if spread:
        raise invalid("attention", f"'attention' is '{name}', which cannot serve a model that is spread over devices")
    if name == "auto":
        triton = _make_triton()
        return [None] if isinstance(triton, str) else [triton, None]
    if device.type != "cuda":
        raise invalid("attention", f"'attention' is '{name}', which needs a CUDA device, and the device is '{device}'")
    found = _MAKERS[name]()
    if isinstance(found, str):
        raise invalid("attention", f"'attention' is '{name}', but {found}")
    return [found]


def _make_triton() -> PagedKernels | str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from mesh.engine.transformers.attention.triton_attention import TritonKernels

    return TritonKernels()


_MAKERS: dict[str, Callable[[], PagedKernels | str]] = {
    "triton": _make_triton,
    "varlen": make_varlen,
    "flash_attn": make_flash_attn,
}
