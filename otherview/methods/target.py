"""What has to be predicted of a view: features of a moving average, or its pixels.

Axes: B images, C channels, H and W pixels, L patches, P width of the target.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from otherview.losses.reconstruction import normalise_patches, patchify
from otherview.nn.branch import Branch
from otherview.nn.ema import move, twin
from otherview.nn.encoder import Encoder


@runtime_checkable
class Target(Protocol):
    """A module without gradient that says what to predict of whole images."""

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """Its encoder, where it has one worth keeping."""
        ...

    def follow(self, online: Branch, progress: float) -> None:
        """Move once per optimiser step, before anything is asked."""
        ...

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L P"]: ...


class MovingTarget(Branch):
    """The online branch's moving average: its patch tokens after the projector, layer-normalised (specification 1.7)."""

    def __init__(self, online: Branch, momentum: Callable[[float], float]) -> None:
        super().__init__(twin(online.encoder), twin(online.projector))
        self.momentum = momentum

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"target": self.encoder}

    def follow(self, online: Branch, progress: float) -> None:
        move(self, towards=online, momentum=self.momentum(progress))

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

    def follow(self, online: Branch, progress: float) -> None:
        """Pixels stay where they are."""

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L P"]:
        return normalise_patches(patchify(images, self.patch_size))


def normalise_target(tokens: Float[Tensor, "B L P"]) -> Float[Tensor, "B L P"]:
    """Layer norm without affine, eps 1e-5, in float32."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)
