"""What is judged: an encoder, the images it wants, and its untrained twin; ours, a timm model, or any module with tokens.

    backbone(timm.create_model("vit_base_patch16_224", pretrained=True))
    backbone(module, size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, patch_size=16)    # module(images): [B, N, D]

Axes: B images, C channels, H and W pixels, N tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from otherview.data.image import Preprocessing
from otherview.data.settings import ShownSettings
from otherview.data.source import Source
from otherview.errors import WrongRequest
from otherview.evaluation.split import settled_images
from otherview.evaluation.whole_images import as_asked
from otherview.geometry import PatchGrid
from otherview.nn.encoder import Encoder, Tokens
from otherview.weights.names import known_of, load_encoder, named, start_of
from otherview.weights.pretrained import Card


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """An encoder maps normalised images to Tokens; with `block=k`, as its k-th block leaves them."""

    name: str
    encoder: nn.Module
    preprocessing: Preprocessing
    patch_size: int | None
    """In pixels; None where there are no patch tokens."""
    depth: int | None = None
    """How many blocks it has, where they can be asked."""
    untrained: nn.Module | None = None
    start: nn.Module | None = None
    """As it was where its training started from weights."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the results say of it."""

    def __str__(self) -> str:
        return self.name

    def to(self, device: torch.device) -> "Backbone":
        """The same on a device."""
        moved = {name: module.to(device) for name, module in self.modules.items()}
        return replace(self, **moved)

    def seeing(self, sources: Sequence[Source]) -> "Backbone":
        """The same for the images of two splits, with what their values mean; raises WrongRequest."""
        return replace(self, preprocessing=settled_images(sources, self.preprocessing))

    def shown(self, settings: ShownSettings) -> "Backbone":
        """The same for images of the size and the fit that are asked for; raises WrongRequest."""
        patch_size = self.patch_size if isinstance(self.encoder, Encoder) else None
        return replace(self, preprocessing=as_asked(self.preprocessing, settings, patch_size=patch_size))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The encoder and, where there are such, the weights it started from and its untrained twin."""
        found = {"encoder": self.encoder, "start": self.start, "untrained": self.untrained}
        return {name: module for name, module in found.items() if module is not None}

    @property
    def grid(self) -> PatchGrid:
        """Patches of an image of its size; where there are none, the image is one."""
        if self.patch_size is None:
            return PatchGrid(1, 1)
        return PatchGrid(*(side // self.patch_size for side in self.preprocessing.size))

    def check_patches(self) -> None:
        """Raise WrongRequest where there are no patch tokens."""
        if self.patch_size is None:
            raise WrongRequest(f"{self.name} has no patch tokens that are known of: give its patch_size")

    def check_block(self, block: int | None) -> None:
        """Raise WrongRequest where the encoder has no such block."""
        if block is not None and not 1 <= block <= (self.depth or 0):
            there = f"1 to {self.depth}" if self.depth else "none that can be asked"
            raise WrongRequest(f"--block {block} is none of {self.name}'s blocks: there are {there}")


class _Foreign(nn.Module):
    """Somebody else's module, asked for tokens."""

    def __init__(self, module: nn.Module, prefix: int) -> None:
        super().__init__()
        self.module, self.prefix = module, prefix

    def forward(self, images: Float[Tensor, "B C H W"], *, block: int | None = None) -> Tokens:
        if not isinstance(self.module, VisionTransformer):
            found = self.module(images)
            if isinstance(found, Tokens):
                return found
            return Tokens(found, self.prefix) if found.ndim == 3 else Tokens(found[:, None], 0)
        if block is None:
            return Tokens(self.module.forward_features(images), self.prefix)
        found: Any = self.module.forward_intermediates(
            images, [block - 1], return_prefix_tokens=True, output_fmt="NLC", stop_early=True, intermediates_only=True
        )
        if not self.prefix:  # then timm gives patches alone
            return Tokens(found[0], 0)
        patches, before = found[0]
        return Tokens(torch.cat([before, patches], dim=1), self.prefix)


def backbone(
    module: nn.Module,
    *,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    patch_size: int | None = None,
    prefix: int = 1,
    untrained: nn.Module | None = None,
    name: str | None = None,
) -> Backbone:
    """Any module that maps normalised images [B, C, H, W] to tokens [B, N, D], Tokens, or one feature an image [B, D].

    `prefix` tokens stand before the patches, the first of them cls. A timm VisionTransformer knows all of it itself.
    Raises WrongRequest where something is missing, or where what comes out is no tokens.
    """
    depth = None
    if isinstance(module, VisionTransformer):
        wanted: Any = module.pretrained_cfg
        size, patch_size = size or tuple(wanted["input_size"][1:]), module.patch_embed.patch_size[0]
        mean, std = mean or wanted["mean"], std or wanted["std"]
        prefix, depth = module.num_prefix_tokens, len(module.blocks)
    if size is None or mean is None or std is None:
        raise WrongRequest("give the size, mean and std of the images that the module wants")
    preprocessing = Preprocessing(size, tuple(mean), tuple(std), len(mean))
    found = Backbone(
        name=name or type(module).__name__,
        encoder=_Foreign(module, prefix),
        preprocessing=preprocessing,
        patch_size=patch_size,
        depth=depth,
        untrained=None if untrained is None else _Foreign(untrained, prefix),
    )
    with torch.no_grad():
        tokens = found.encoder.eval()(torch.zeros(1, len(mean), *size))
    if patch_size is not None and tokens.patches.shape[1] != found.grid.patches:
        raise WrongRequest(
            f"{found.name} gives {tokens.patches.shape[1]} patch tokens for {size[0]}×{size[1]} pixels, not the "
            f"{found.grid.patches} of patch size {patch_size} and prefix {prefix}: say which it has"
        )
    return found


def load_backbone(where: object) -> Backbone:
    """What `--weights` names, beside what it was before training; a Backbone is one already."""
    if isinstance(where, Backbone):
        return where
    loaded, start = load_encoder(named(where)), start_of(where)
    found = backbone_of(loaded.encoder, loaded.card, name=str(where))
    return found if start is None else replace(found, start=start.encoder)


def backbone_of(encoder: Encoder, card: Card, *, name: str) -> Backbone:
    """An encoder of ours, beside what it was before training."""
    settings = card.encoder
    return Backbone(
        name=name,
        encoder=encoder,
        preprocessing=card.preprocessing,
        patch_size=settings.patch_size,
        depth=settings.depth,
        untrained=Encoder(settings, seed=card.seed),
        about=known_of(card),
    )
