"""What has to be predicted of a view: features of a moving average, or its pixels.

Axes: B images, C channels, H and W pixels, L patches, P width of the target.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.losses.reconstruction import normalise_patches, patchify
from otherview.nn.encoder import Encoder
from otherview.nn.heads import Branch


@runtime_checkable
class Target(Protocol):
    """A module without gradient that says what to predict of whole images."""

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """Its encoder, where it has one worth keeping."""
        ...

    def ema_update(self, online: Branch, progress: float) -> None:
        """Update once per optimiser step, before any target is made."""
        ...

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L P"]: ...


class EMATarget(Branch):
    """The online branch's moving average: its patch tokens after the projector, layer-normalised (specification 1.7)."""

    def __init__(self, online: Branch, momentum: Callable[[float], float]) -> None:
        super().__init__(frozen_copy(online.encoder), frozen_copy(online.projector))
        self.momentum = momentum

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"target": self.encoder}

    def ema_update(self, online: Branch, progress: float) -> None:
        ema_update(self, towards=online, momentum=self.momentum(progress))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L P"]:
        tokens = self.encoder(images).without_registers
        return normalise_target(self.projector(tokens)[:, 1:])


class PixelTarget(nn.Module):
    """The pixels of every patch, normalised by themselves, as MAE has them."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {}

    def ema_update(self, online: Branch, progress: float) -> None:
        """Pixels stay where they are."""

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L P"]:
        return normalise_patches(patchify(images, self.patch_size))


def normalise_target(tokens: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
    """Layer norm without affine, eps 1e-5, in float32."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)


M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy that takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(target: nn.Module, *, towards: nn.Module, momentum: float) -> None:
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
