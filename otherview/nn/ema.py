"""A moving-average twin of any module, and the momentum over time (specification 1.7)."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M) -> M:
    """A copy that takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move(target: nn.Module, *, towards: nn.Module, momentum: float) -> None:
    """target ← momentum · target + (1 − momentum) · towards, parameter by parameter, in the parameters' own float32."""
    mine: list[Tensor] = list(target.parameters())
    theirs: list[Tensor] = list(towards.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]


def cosine_momentum(progress: float, *, start: float) -> float:
    """From `start` at progress 0 to 1 at progress 1 along half a cosine."""
    return 1 - 0.5 * (1 + math.cos(math.pi * progress)) * (1 - start)


def constant_momentum(progress: float, *, always: float) -> float:
    """The same from beginning to end; 0 makes the target the online module itself."""
    return always
