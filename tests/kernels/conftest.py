"""Triton runs on a GPU or, where there is none, in its own interpreter; where it is not installed, nothing is tested.

`make test-kernels` installs it in an environment of its own: a gigabyte that nobody needs without a GPU.
"""

from __future__ import annotations

import importlib.util
import os

import torch

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]

if not torch.cuda.is_available():
    # Read when triton is imported.
    os.environ["TRITON_INTERPRET"] = "1"
