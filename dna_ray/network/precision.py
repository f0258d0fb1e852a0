"""In which precision networks compute."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device | str) -> AbstractContextManager[Any]:
    """bfloat16 on a GPU, where it is fast and needs no scaling of losses; elsewhere as it is."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if kind == "cuda" else nullcontext()
