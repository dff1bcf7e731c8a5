"""Which kernels attend over the packed rows: the choice behind --attention."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

import torch

from mesh.engine.transformers.attention.cpp_attention import CppKernels
from mesh.engine.transformers.attention.flash_attention import make_flash_attn, make_varlen
from mesh.engine.transformers.attention.paged import PagedKernels
from mesh.errors import invalid

log = logging.getLogger(__name__)

CHOICES = ("auto", "triton", "varlen", "flash_attn", "cpp", "sdpa")

# On GPUs and on CPUs.
Kernels = PagedKernels | CppKernels


def find_kernels(
    name: str, device: torch.device, *, spread: bool = False, compiled: bool = False
) -> list[Kernels | None]:
    """The kernels to try, in order; None stands for torch's own attention over gathered pages.

    The model decides: it may ask for what some of them cannot do, or be `spread` over several devices, which only
    torch's own attention serves. With `compiled`, the model's code is compiled, so that on a CPU attention may be, too.
    Raises invalid_request for kernels that are not there.
    """
    if name not in CHOICES:
        raise invalid("attention", f"'attention' must be {', '.join(CHOICES)}, not '{name}'")
    if name == "auto" and compiled and not spread and device.type == "cpu":
        return [*_found(_make_cpp()), None]
    if name == "sdpa" or (name == "auto" and (spread or device.type != "cuda")):
        return [None]
    if spread:
        raise invalid("attention", f"'attention' is '{name}', which cannot serve a model that is spread over devices")
    if name == "auto":
        return [*_found(_make_triton()), None]
    needs, named = ("cpu", "the CPU") if name == "cpp" else ("cuda", "a CUDA device")
    if device.type != needs:
        raise invalid("attention", f"'attention' is '{name}', which needs {named}, and the device is '{device}'")
    found = _MAKERS[name]()
    if isinstance(found, str):
        raise invalid("attention", f"'attention' is '{name}', but {found}")
    return [found]


def _found(made: Kernels | str) -> list[Kernels]:
    return [] if isinstance(made, str) else [made]


def _make_cpp() -> Kernels | str:
    try:
        return CppKernels()
    except Exception as error:  # whatever torch's compiler may raise
        log.info("no attention kernel in C++: %s", error)
        return "there is no C++ compiler that can build it"


def _make_triton() -> Kernels | str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from mesh.engine.transformers.attention.triton_attention import TritonKernels

    return TritonKernels()


_MAKERS: dict[str, Callable[[], Kernels | str]] = {
    "cpp": _make_cpp,
    "triton": _make_triton,
    "varlen": make_varlen,
    "flash_attn": make_flash_attn,
}
